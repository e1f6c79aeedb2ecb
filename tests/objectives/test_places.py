"""All places of sequences at once, against the same rows one by one."""

from __future__ import annotations

import copy
from functools import partial

import pandas as pd
import pytest
import torch

from torchrl_drpo.data import LogSchema, RecReplayBuffer
from torchrl_drpo.objectives import (
    AllPlaces,
    AWRLoss,
    BehaviorCloningLoss,
    DRPOLoss,
    RepulsiveLoss,
)
from torchrl_drpo.policies import (
    EncoderConfig,
    make_catalogue_actor,
    make_gaussian_actor,
)

V, L = 25, 12
ENCODERS = {
    "pooling": EncoderConfig(pooling="attention", hidden=(16,)),
    "gru": EncoderConfig("gru", layers=1),
    "transformer": EncoderConfig("transformer", layers=2),
}


@pytest.fixture(scope="module")
def buffer() -> RecReplayBuffer:
    torch.manual_seed(0)
    rows = 400
    frame = pd.DataFrame(
        {
            "u": torch.arange(rows) // 10,
            "i": torch.randint(V, (rows,)),
            "t": torch.randint(8, (rows,)),  # ties
            "y": torch.rand(rows),
            "c": torch.randint(3, (rows,)),
            "x": torch.rand(rows),
        }
    )
    columns = {"user": "u", "item": "i", "time": "t", "quality": "y"}
    schema = LogSchema(**columns, context=("c",), features=("x",))
    return RecReplayBuffer.from_pandas(frame, schema, history=L)


def actor_on(buffer: RecReplayBuffer, encoder: EncoderConfig, more: bool = True, **options):
    sizes = {"context_sizes": buffer.context_sizes, "num_features": 1} if more else {}
    actor = make_catalogue_actor(
        buffer.num_items, dim=8, history=L, encoder=encoder, **sizes, **options
    )
    for parameter in actor.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return actor


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("kind", ENCODERS)
def test_states_are_those_of_the_rows_one_by_one(buffer, kind: str, more: bool) -> None:
    actor = actor_on(buffer, ENCODERS[kind], more).eval()
    pieces = buffer.sequences()[:]
    found = AllPlaces(BehaviorCloningLoss, actor).eval().rows(pieces)
    mask = found["collector", "mask"]
    expected = actor.get_dist(buffer[:]).hidden
    torch.testing.assert_close(found["hidden"][mask], expected, atol=1e-6, rtol=1e-6)
    assert not [key for key in found.keys(True, True) if "observation" in key]


LOSSES = {
    "bc": BehaviorCloningLoss,
    "drpo": partial(DRPOLoss, kappa=0.3),
    "awr": AWRLoss,
    "signed": RepulsiveLoss,
    "whole": partial(BehaviorCloningLoss, functional=False),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_the_rows_one_by_one(buffer, name: str) -> None:
    actor = actor_on(buffer, ENCODERS["transformer"])
    together = AllPlaces(LOSSES[name], actor)(buffer.sequences()[:])
    together["loss_actor"].backward()
    got = {key: p.grad.clone() for key, p in actor.named_parameters()}
    actor.zero_grad()
    alone = LOSSES[name](actor)(buffer[:])
    alone["loss_actor"].backward()
    for key in alone.keys():  # noqa: SIM118 (TensorDict)
        torch.testing.assert_close(together[key], alone[key], atol=1e-5, rtol=1e-4)
    for key, parameter in actor.named_parameters():
        torch.testing.assert_close(got[key], parameter.grad, atol=1e-5, rtol=1e-3, msg=key)


def test_it_trains_the_actor_that_it_was_given(buffer) -> None:
    actor = actor_on(buffer, ENCODERS["gru"])
    loss = AllPlaces(BehaviorCloningLoss, actor)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in actor.parameters()}
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    pieces = buffer.sequences()[:]
    first = loss(pieces)["loss_actor"].item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(pieces)["loss_actor"].backward()
        optimizer.step()
    assert loss(pieces)["loss_actor"].item() < first - 0.1
    alone = BehaviorCloningLoss(actor)(buffer[:])["loss_actor"].item()
    assert alone == pytest.approx(loss(pieces)["loss_actor"].item(), abs=1e-4)


@pytest.mark.parametrize("functional", [True, False])
def test_training_mode_reaches_the_encoder(buffer, functional: bool) -> None:
    encoder = EncoderConfig("transformer", dropout=0.5)
    make_loss = partial(BehaviorCloningLoss, functional=functional)
    loss, pieces = AllPlaces(make_loss, actor_on(buffer, encoder)), buffer.sequences()[:]
    loss.eval()
    assert loss(pieces)["loss_actor"] == loss(pieces)["loss_actor"]
    loss.train()
    assert loss(pieces)["loss_actor"] != loss(pieces)["loss_actor"]


def test_its_state_restores_the_run(buffer) -> None:
    one, other = (AllPlaces(BehaviorCloningLoss, actor_on(buffer, ENCODERS["gru"])) for _ in "ab")
    pieces = buffer.sequences()[:]
    assert one(pieces)["loss_actor"] != other(pieces)["loss_actor"]
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(pieces)["loss_actor"], one(pieces)["loss_actor"])


@pytest.mark.parametrize("functional", [True, False])
def test_copies_and_other_types_are_whole(buffer, functional: bool) -> None:
    """No part is left behind: states and scores come of the parameters that the loss has."""
    make_loss = partial(BehaviorCloningLoss, functional=functional)
    loss, pieces = AllPlaces(make_loss, actor_on(buffer, ENCODERS["gru"])), buffer.sequences()[:]
    before = loss(pieces)["loss_actor"].item()
    twin = copy.deepcopy(loss)
    assert twin(pieces)["loss_actor"].item() == before
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01)
    twin(pieces)["loss_actor"].backward()
    assert all(p.grad is not None for p in twin.parameters())
    optimizer.step()
    assert twin(pieces)["loss_actor"].item() < before
    assert loss(pieces)["loss_actor"].item() == before
    assert loss.double()(pieces)["loss_actor"].dtype == torch.float64
    assert loss(pieces)["loss_actor"].item() == pytest.approx(before, rel=1e-5)


def test_gaussian_policies_train_all_places_too(buffer) -> None:
    actor = make_gaussian_actor(
        8,
        3,
        encoder=ENCODERS["gru"],
        num_items=buffer.num_items,
        history=L,
        context_sizes=buffer.context_sizes,
    )
    pieces, rows = buffer.sequences()[:], buffer[:]
    vectors = torch.randn(buffer.num_items, 3)
    rows["action"], pieces["action"] = vectors[rows["action"]], vectors[pieces["action"]]
    together = AllPlaces(BehaviorCloningLoss, actor)(pieces)["loss_actor"]
    torch.testing.assert_close(together, BehaviorCloningLoss(actor)(rows)["loss_actor"])


def test_entries_may_lie_elsewhere(buffer) -> None:
    actor = actor_on(buffer, ENCODERS["gru"], more=False, history_key="past")
    pieces = buffer.sequences()[:]
    expected = AllPlaces(BehaviorCloningLoss, actor_on(buffer, ENCODERS["gru"], more=False))
    expected.load_state_dict(AllPlaces(BehaviorCloningLoss, actor).state_dict())
    value = expected(pieces)["loss_actor"]
    pieces.set("past", pieces.pop(("observation", "history")))
    torch.testing.assert_close(AllPlaces(BehaviorCloningLoss, actor)(pieces)["loss_actor"], value)


def test_what_cannot_be_read_as_sequences_is_refused(buffer) -> None:
    loss = AllPlaces(BehaviorCloningLoss, actor_on(buffer, ENCODERS["gru"]))
    with pytest.raises(KeyError, match=r"sample buffer\.sequences\(\)"):
        loss(buffer[:])
    with pytest.raises(TypeError, match=r"first module has places\(\)"):
        AllPlaces(BehaviorCloningLoss, make_gaussian_actor(3, 2))
    with pytest.raises(ValueError, match="level='step'"):
        AllPlaces(
            partial(DRPOLoss, level="trajectory"),
            actor_on(buffer, ENCODERS["gru"]),
        )
