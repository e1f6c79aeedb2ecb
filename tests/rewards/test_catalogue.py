"""The reward model's predictions: each row's own, and no wrong sum over the catalogue."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import GuidedLoss, make_catalogue_actor, make_gaussian_actor
from torchrl_drpo.policies.encoders import EncoderConfig
from torchrl_drpo.rewards import catalogue as catalogue_reward
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS = 6


def random_model(*, context: bool = True) -> CatalogueReward:
    """Untrained towers with large random numbers, in float64."""
    torch.manual_seed(0)
    sizes = (2,) if context else ()
    make = lambda: two_tower_module(ITEMS, dim=4, history=3, context_sizes=sizes, hidden=(8,))  # noqa: E731
    model = CatalogueReward([StandardisedReward(make()).double() for _ in range(3)]).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    for member in model.members:
        member.mean.fill_(0.3)
        member.std.fill_(0.7)
    return model.requires_grad_(False).eval()


def some_rows(n: int = 7) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    observation = {
        "history": torch.randint(-1, ITEMS, (n, 3), generator=g),
        "context": torch.randint(-1, 2, (n, 1), generator=g),
    }
    action = torch.randint(0, ITEMS, (n,), generator=g)
    reward = torch.rand(n, 1, generator=g, dtype=torch.double)
    columns = {"observation": observation, "action": action, "next": {"reward": reward}}
    return TensorDict(columns, [n])


@pytest.mark.parametrize("fold", [None, [0, 1, 2, 0, 1, 2, 2], [-1, 0, -1, 1, 2, -1, 0]])
@pytest.mark.parametrize("context", [True, False])
def test_a_row_of_all_predictions_is_each_prediction(fold, context: bool) -> None:
    model, rows = random_model(context=context), some_rows()
    if fold is not None:
        rows["fold"] = torch.tensor(fold)
    one_by_one = [
        model(rows.clone().set("action", torch.full((7,), item)))["predicted_reward"]
        for item in range(ITEMS)
    ]
    torch.testing.assert_close(model.predict_all(rows), torch.stack(one_by_one, -1))


ENCODERS = {
    "gru": EncoderConfig("gru", layers=1),
    "transformer": EncoderConfig("transformer", layers=1, times=True, feedback=True),
    "pooling": EncoderConfig(hidden=(8,), pooling="attention", feedback=True),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_towers_read_histories_by_any_encoder(kind: str) -> None:
    encoder = ENCODERS[kind]
    make = lambda: two_tower_module(ITEMS, dim=4, history=3, encoder=encoder)  # noqa: E731
    model = CatalogueReward([StandardisedReward(make()) for _ in range(2)])
    for parameter in model.parameters():
        parameter.data.normal_()
    rows = some_rows()
    if encoder.times:
        rows["observation", "history_time"] = torch.tensor([3, 40, 500]).expand(7, 3)
    if encoder.feedback:
        rows["observation", "history_feedback"] = torch.rand(7, 3)
    one_by_one = torch.stack(
        [
            model(rows.clone().set("action", torch.full((7,), item)))["predicted_reward"]
            for item in range(ITEMS)
        ],
        -1,
    )
    torch.testing.assert_close(model.predict_all(rows), one_by_one)
    torch.testing.assert_close(model.tiles(rows)(slice(2, 7))(slice(1, 5)), one_by_one[2:7, 1:5])
    if encoder.feedback:  # it is read
        changed = rows.clone()
        changed["observation", "history_feedback"] = 1 - rows["observation", "history_feedback"]
        assert not torch.allclose(model.predict_all(changed), one_by_one)


@pytest.mark.parametrize("block", [2**24, 2 * ITEMS, 1])
def test_the_expected_reward_is_the_sum_over_the_catalogue(monkeypatch, block: int) -> None:
    monkeypatch.setattr(catalogue_reward, "PREDICTIONS_AT_A_TIME", block)
    model, rows = random_model(), some_rows()
    rows["fold"] = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    actor = make_catalogue_actor(ITEMS, dim=4, history=3, context_sizes=(2,), temperature=0.7)
    actor = actor.double()
    got = model.expected_reward(rows, actor.get_dist(rows))
    weight = torch.arange(1.0, 8.0, dtype=torch.double)
    (got * weight).sum().backward()
    gradient = [p.grad.clone() for p in actor.parameters()]

    actor.zero_grad()
    wanted = (actor.get_dist(rows).logits.exp() * model.predict_all(rows)).sum(-1)
    (wanted * weight).sum().backward()
    torch.testing.assert_close(got, wanted)
    for found, parameter in zip(gradient, actor.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
    assert gradient[0].abs().sum() > 0


def test_guided_takes_the_exact_expectation_from_the_model() -> None:
    model, rows = random_model(), some_rows()
    rows["fold"] = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    actor = make_catalogue_actor(ITEMS, dim=4, history=3, context_sizes=(2,)).double()
    loss, by_hand = GuidedLoss(actor, model), GuidedLoss(actor, model, expectation="exact")
    monkey = []
    loss.reward_model.predict_all = lambda rows: (
        monkey.append(len(rows)) or type(model).predict_all(loss.reward_model, rows)
    )
    torch.testing.assert_close(loss(rows)["loss_actor"], by_hand(rows)["loss_actor"])
    assert monkey  # all rows with a positive advantage in one product
    assert sum(monkey) < len(rows)


def test_a_policy_over_embeddings_is_refused() -> None:
    rows = TensorDict({"observation": torch.zeros(2, 5)}, [2])
    dist = make_gaussian_actor(state_dim=5, action_dim=4).get_dist(rows)
    with pytest.raises(TypeError, match="needs a CatalogueCategorical policy, got"):
        random_model().expected_reward(some_rows(2), dist)
