"""On a GPU every kind of policy trains, ranks and serves as on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import DRPOLoss, make_catalogue_actor
from torchrl_drpo.pipeline.artifacts.checkpoint import policy_of
from torchrl_drpo.policies.conditioned import make_conditioned_actor
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.retrieval import make_retrieval_actor
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor
from torchrl_drpo.policies.semantic_id.tilted import make_tilted_semantic_id_actor
from torchrl_drpo.policies.slates import make_slate_actor
from torchrl_drpo.policies.tilted import make_tilted_actor
from torchrl_drpo.rewards import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

DEVICE = "cuda"
V, HISTORY, N, LEVELS = 120, 6, 48, 3
SHAPE = {"dim": 16, "history": HISTORY, "context_sizes": (LEVELS,)}
CODES = torch.stack([torch.arange(V) % 7, torch.arange(V) // 7 % 5, torch.arange(V) % 3], 1)


def critic() -> CatalogueReward:
    def member() -> StandardisedReward:
        return StandardisedReward(
            two_tower_module(V, dim=8, history=HISTORY, context_sizes=(LEVELS,))
        )

    return CatalogueReward([member(), member()]).requires_grad_(False).eval()


TRAINED: dict[str, Callable[[], ProbabilisticActor]] = {
    "pooling": lambda: make_catalogue_actor(V, **SHAPE),
    "gru": lambda: make_catalogue_actor(V, encoder={"kind": "gru"}, **SHAPE),
    "transformer": lambda: make_catalogue_actor(V, encoder={"kind": "transformer"}, **SHAPE),
    **{
        f"semantic-id, {head}": lambda head=head: make_semantic_id_actor(CODES, head=head, **SHAPE)
        for head in ("parallel", "gru", "transformer")
    },
}
SERVED: dict[str, Callable[[], ProbabilisticActor]] = TRAINED | {
    "embedding": lambda: make_retrieval_actor(V, item_vectors=torch.randn(V, 16), **SHAPE),
    "tilted": lambda: make_tilted_actor(TRAINED["gru"](), critic(), 0.3),
    "conditioned": lambda: make_conditioned_actor(  # the last column is the level
        make_catalogue_actor(V, **SHAPE | {"context_sizes": (LEVELS, 4)}), 0.5
    ),
    "semantic-id, tilted": lambda: make_tilted_semantic_id_actor(
        TRAINED["semantic-id, gru"](), critic(), 0.3
    ),
}


def rows() -> TensorDict:
    history = torch.randint(-1, V, (N, HISTORY))
    observation = {"history": history, "context": torch.randint(LEVELS, (N, 1))}
    reward = torch.rand(N, 1)
    return TensorDict(
        {
            "observation": observation,
            "action": torch.randint(V, (N,)),
            "next": {"reward": reward},
        },
        [N],
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_has_the_same_loss_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    here, batch = TRAINED[name]().eval(), rows()
    there = copy.deepcopy(here).to(DEVICE)
    losses = []
    for actor in (here, there):
        loss = DRPOLoss(actor, kappa=0.3)
        found = loss(batch.to(next(actor.parameters()).device))["loss_actor"]
        found.backward()
        losses.append((found, {key: each.grad for key, each in loss.named_parameters()}))
    torch.testing.assert_close(losses[1][0].cpu(), losses[0][0], rtol=1e-4, atol=1e-5)
    for key, wanted in losses[0][1].items():
        grad = losses[1][1][key]
        assert (grad is None) == (wanted is None), key
        if wanted is not None:
            torch.testing.assert_close(grad.cpu(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SERVED)
def test_lists_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    here, observed = SERVED[name]().eval(), rows()["observation"]
    given = {"history": observed["history"], "context": observed["context"]}
    lists = PolicyLists(policy_of(here), 10)
    wanted = lists(**given)
    found = copy.deepcopy(lists).to(DEVICE)(**{key: each.to(DEVICE) for key, each in given.items()})
    torch.testing.assert_close(found[1].cpu(), wanted[1], rtol=1e-4, atol=1e-4)
    same = (found[0].cpu() == wanted[0]).double().mean()
    assert same > 0.98  # what all but ties may change places


@pytest.mark.gpu
def test_slates_have_the_same_log_probabilities_and_no_item_twice() -> None:
    torch.manual_seed(0)
    here = make_slate_actor(V, slate=4, **SHAPE).eval()
    there, batch = copy.deepcopy(here).to(DEVICE), rows().select("observation")
    drawn = there.get_dist(batch.to(DEVICE)).sample()
    assert (drawn.sort(-1).values.diff(dim=-1) > 0).all()
    torch.testing.assert_close(
        there.get_dist(batch.to(DEVICE)).log_prob(drawn).cpu(),
        here.get_dist(batch).log_prob(drawn.cpu()),
        rtol=1e-4,
        atol=1e-4,
    )
