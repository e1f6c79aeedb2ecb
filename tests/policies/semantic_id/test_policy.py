"""A semantic-ID actor: what it reads, what trains it, and that no loss knows of its codes."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

import torchrl_drpo as drpo
from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.functional.tapers import ExponentialTaper
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor, semantic_id_policy

V, L, N = 30, 4, 64
HEADS = pytest.mark.parametrize("head", ["gru", "transformer", "parallel"])


def codes() -> torch.Tensor:
    return torch.randint(4, (V, 3), generator=torch.Generator().manual_seed(0))


def rows(n: int = N) -> TensorDict:
    history = torch.randint(V, (n, L))
    history[0] = -1
    history[1, :2] = -1
    observation = {
        "history": history,
        "context": torch.randint(-1, 3, (n, 1)),
        "features": torch.randn(n, 2),
    }
    reward = torch.randn(n, 1)
    columns = {"observation": observation, "action": torch.randint(V, (n,))}
    return TensorDict(columns | {"next": {"reward": reward}}, [n])


def make(head: str = "gru", **options):
    return make_semantic_id_actor(
        codes(), dim=16, history=L, context_sizes=(3,), num_features=2, head=head, **options
    )


@HEADS
def test_its_action_is_an_item(head):
    actor, td = make(head), rows()
    assert torch.equal(actor(td.clone())["action"], actor.get_dist(td).mode)
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = actor(td.clone())["action"]
    assert drawn.shape == (N,)
    assert ((drawn >= 0) & (drawn < V)).all()


@HEADS
@pytest.mark.parametrize(
    "make_loss",
    [
        drpo.DRPOLoss,
        drpo.BehaviorCloningLoss,
        drpo.AWRLoss,
        lambda actor: drpo.RepulsiveLoss(actor, taper=ExponentialTaper(threshold=0.5)),
        drpo.GBPOLoss,
    ],
)
def test_every_objective_trains_it(head, make_loss):
    """The loss is that of a categorical with the same log-probabilities: nothing else is read."""
    torch.manual_seed(0)
    actor, td = make(head), rows()
    loss = make_loss(actor)
    out = loss(td)
    out["loss_actor"].backward()
    policy = semantic_id_policy(actor)
    grads = {name: p.grad for name, p in loss.named_parameters()}
    assert all(g is None or g.isfinite().all() for g in grads.values())
    assert sum(g is not None and bool((g != 0).any()) for g in grads.values()) > 5
    if make_loss is drpo.BehaviorCloningLoss:
        expected = -policy.distribution(actor(td.clone())["hidden"]).log_prob(td["action"]).mean()
        torch.testing.assert_close(out["loss_actor"], expected)


def test_a_policy_that_is_told_what_is_good_serves_it():
    """Eight items are good for whoever saw item 0, the others for all else; DRPO finds both."""
    torch.manual_seed(0)
    actor = make_semantic_id_actor(codes(), dim=16, history=1, head="gru")
    history = torch.randint(2, (4000, 1))
    action = torch.randint(V, (4000,))
    good = (action < 8) == (history[:, 0] == 0)
    quality = good.float() + 0.3 * torch.rand(4000)
    entries = {"observation": {"history": history}, "action": action}
    td = TensorDict(entries | {"next": {"reward": quality.unsqueeze(-1)}}, [4000])
    loss = drpo.DRPOLoss(actor, kappa=0.3)
    optimiser = torch.optim.Adam(loss.parameters(), 1e-2)
    for step in range(200):
        batch = td[torch.randint(4000, (512,), generator=torch.Generator().manual_seed(step))]
        optimiser.zero_grad()
        loss(batch)["loss_actor"].backward()
        optimiser.step()
    asked = TensorDict({"observation": {"history": torch.tensor([[0], [1]])}}, [2])
    chance = actor.get_dist(asked).probs[:, :8].sum(-1)
    assert chance[0] > 0.85
    assert chance[1] < 0.1


def test_an_item_of_a_history_is_the_sum_of_its_codes_vectors_and_its_own():
    policy = semantic_id_policy(make())
    item = torch.arange(V)
    expected = policy.item_vectors.clone()
    for level, table in enumerate(policy.code_vectors):
        rank = codes()[:, level].unique(return_inverse=True)[1]
        expected = expected + table[rank]
    torch.testing.assert_close(policy.embed(item), expected)
    bare = semantic_id_policy(make(item_vectors=False))
    same = (codes()[:, None] == codes()).all(-1).nonzero()
    torch.testing.assert_close(bare.embed(same[:, 0]), bare.embed(same[:, 1]))


@HEADS
def test_an_actor_without_codes_is_filled_by_a_state_dict(head):
    actor, td = make(head), rows()
    sizes = semantic_id_policy(actor).trie.sizes
    empty = make_semantic_id_actor(
        num_items=V, code_sizes=sizes, dim=16, history=L, context_sizes=(3,), num_features=2,
        head=head,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="must be loaded first"):
        empty.get_dist(td)
    empty.load_state_dict(actor.state_dict())
    for other in (empty, copy.deepcopy(actor)):
        torch.testing.assert_close(other.get_dist(td).logits, actor.get_dist(td).logits)


def test_tokens_of_one_level_are_a_softmax_over_items():
    """One level of V codes, no look at prefixes: the catalogue policy of the same tables."""
    actor = make_semantic_id_actor(torch.arange(V).unsqueeze(1), dim=16, history=L, head="parallel")
    td = rows()
    dist = actor.get_dist(td)
    tables = semantic_id_policy(actor).decoder.codes
    same = CatalogueCategorical(dist.hidden, tables.outputs[0], tables.biases[0])
    torch.testing.assert_close(dist.logits, same.logits)
