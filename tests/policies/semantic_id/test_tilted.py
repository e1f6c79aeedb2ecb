"""Semantic IDs times a critic: one distribution over items, whose weights are policy and critic."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from tests.pipeline.exporting.runtimes import HAS_ONNX
from torchrl_drpo import make_catalogue_actor
from torchrl_drpo.distributions.code_trie import TrieCategorical
from torchrl_drpo.pipeline.exporting.inputs import Input
from torchrl_drpo.pipeline.exporting.loading import _onnx_session
from torchrl_drpo.pipeline.exporting.writing import _write_onnx, traced
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor, semantic_id_policy
from torchrl_drpo.policies.semantic_id.tilted import make_tilted_semantic_id_actor
from torchrl_drpo.rewards import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

HISTORY = 3
#: Levels of different size, an ID that ends early, and two items that share one.
CODES = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 2], [1, 2, 0], [2, 0, -1], [2, 1, 1]])
SHARED = torch.cat([CODES, CODES[3:4]])


def random_critic(items: int) -> CatalogueReward:
    def member() -> StandardisedReward:
        return StandardisedReward(two_tower_module(items, dim=4, history=HISTORY))

    model = CatalogueReward([member(), member()]).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    return model.requires_grad_(False).eval()


def random_actor(codes: torch.Tensor, head: str = "gru", **options):
    actor = make_semantic_id_actor(codes, dim=6, history=HISTORY, head=head, **options).double()
    policy = semantic_id_policy(actor)
    for table in policy.decoder.codes.outputs:
        table.data.mul_(3.0)
    if policy.bias is not None:
        policy.bias.data.normal_()
    return actor.eval()


def some_rows(items: int, n: int = 6) -> TensorDict:
    history = torch.randint(-1, items, (n, HISTORY))
    return TensorDict({"observation": {"history": history}}, [n])


def by_hand(actor, critic, rows, codes: torch.Tensor, tau: float) -> torch.Tensor:
    """Log-probabilities level by level, from all items' policy and critic alone, ``[n, V]``."""
    policy, worth = actor.get_dist(rows).logits.exp(), critic.predict_all(rows)
    out = torch.zeros_like(worth)
    for item, own in enumerate(codes.tolist()):
        below = torch.ones(len(codes), dtype=torch.bool)
        for level in range(len(own)):
            prefix = below
            siblings = [
                (codes[:, level] == code) & prefix for code in codes[prefix, level].unique()
            ]
            weight = [
                policy[:, each].sum(-1) * (worth[:, each].mean(-1) / tau).exp() for each in siblings
            ]
            below = (codes[:, level] == own[level]) & prefix
            mine = policy[:, below].sum(-1) * (worth[:, below].mean(-1) / tau).exp()
            out[:, item] += (mine / sum(weight)).log()
        out[:, item] += (policy[:, item] / policy[:, below].sum(-1)).log()  # of one ID
    return out


@pytest.mark.parametrize("codes", [CODES, SHARED], ids=["codes", "shared"])
@pytest.mark.parametrize("head", ["gru", "transformer", "parallel"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_the_formula(codes, head: str, temperature: float) -> None:
    actor, critic = random_actor(codes, head, temperature=temperature), random_critic(len(codes))
    rows = some_rows(len(codes))
    dist = make_tilted_semantic_id_actor(actor, critic, 0.7).get_dist(rows)
    assert isinstance(dist, TrieCategorical)
    wanted = by_hand(actor, critic, rows, codes, 0.7)
    torch.testing.assert_close(wanted.exp().sum(-1), torch.ones(6, dtype=torch.double))
    torch.testing.assert_close(dist.logits, wanted)
    every = torch.arange(len(codes)).unsqueeze(-1).expand(-1, 6)
    torch.testing.assert_close(dist.log_prob(every).T, wanted)


def test_one_level_is_the_exact_tilt() -> None:
    codes = torch.arange(9).unsqueeze(-1)
    actor, critic, rows = random_actor(codes), random_critic(9), some_rows(9)
    dist = make_tilted_semantic_id_actor(actor, critic, 0.4).get_dist(rows)
    weight = actor.get_dist(rows).probs * (critic.predict_all(rows) / 0.4).exp()
    torch.testing.assert_close(dist.probs, weight / weight.sum(-1, keepdim=True))


def test_search_draws_and_lists_are_of_one_distribution() -> None:
    actor, critic, rows = random_actor(SHARED), random_critic(8), some_rows(8)
    tilted = make_tilted_semantic_id_actor(actor, critic, 0.5)
    dist = tilted.get_dist(rows)
    best = dist.logits.sort(-1, descending=True)
    for beam in (0, 8):
        found = dist.topk(5, beam=beam)
        assert torch.equal(found.indices, best.indices[:, :5])
        torch.testing.assert_close(found.values, best.values[:, :5])
    policy = semantic_id_policy(tilted)
    items, log_probs = PolicyLists(policy, 5)(history=rows["observation", "history"])
    assert torch.equal(items, best.indices[:, :5])
    torch.testing.assert_close(log_probs, best.values[:, :5])
    count = dist.sample((20_000,))[:, 0].bincount(minlength=8) / 20_000
    wanted = dist.probs[0]
    assert ((count - wanted).abs() < 5 * (wanted / 20_000).sqrt() + 1e-4).all()
    # Only some items may come back: codes keep their numbers, nodes do not.
    allowed = policy.trie.restrict(torch.tensor([1, 4, 6]))
    some = TrieCategorical(dist.hidden, policy.decoder, allowed, policy.bias).topk(3, beam=3)
    assert set(some.indices.flatten().tolist()) == {1, 4, 6}


def test_exported_graphs_give_the_same_lists(tmp_path: Path) -> None:
    actor, critic, rows = random_actor(SHARED), random_critic(8), some_rows(8)
    tilted = make_tilted_semantic_id_actor(actor, critic, 0.5)
    semantic_id_policy(tilted).tau = 0.3
    lists = PolicyLists(semantic_id_policy(tilted), 4, beam=8).eval()
    history = {"history": rows["observation", "history"]}
    inputs = [Input("history", "int64", HISTORY)]
    graph = traced(lists, inputs, len(SHARED)).module()
    found = tilted.get_dist(rows).topk(4, beam=8)
    items, log_probs = graph(**history)
    assert torch.equal(items, found.indices)
    torch.testing.assert_close(log_probs, found.values)
    if HAS_ONNX:
        single = copy.deepcopy(semantic_id_policy(tilted)).float()
        portable = PolicyLists(single, 4, beam=8, portable=True).eval()
        _write_onnx(traced(portable, inputs, len(SHARED)), tmp_path / "policy.onnx")
        items, log_probs = _onnx_session(tmp_path / "policy.onnx")(history)
        assert torch.equal(items, found.indices)
        torch.testing.assert_close(log_probs.double(), found.values, rtol=1e-4, atol=1e-5)


def test_a_large_tau_leaves_the_policy() -> None:
    actor, critic, rows = random_actor(SHARED), random_critic(8), some_rows(8)
    tilted = make_tilted_semantic_id_actor(actor, critic, 0.5)
    semantic_id_policy(tilted).tau = 1e9
    torch.testing.assert_close(tilted.get_dist(rows).logits, actor.get_dist(rows).logits)
    with pytest.raises(ValueError, match="tau"):
        semantic_id_policy(tilted).tau = 0.0


def test_codes_and_critic_of_a_state_dict_count() -> None:
    actor, critic, rows = random_actor(SHARED), random_critic(8), some_rows(8)
    saved = make_tilted_semantic_id_actor(actor, critic, 0.5)
    sizes = semantic_id_policy(actor).trie.sizes
    empty = (
        make_semantic_id_actor(num_items=8, code_sizes=sizes, dim=6, history=HISTORY)
        .double()
        .eval()
    )
    loaded = make_tilted_semantic_id_actor(empty, random_critic(8), 0.5)
    state = {name: each.clone() for name, each in semantic_id_policy(saved).state_dict().items()}
    semantic_id_policy(loaded).load_state_dict(state)
    torch.testing.assert_close(loaded.get_dist(rows).logits, saved.get_dist(rows).logits)
    again = copy.deepcopy(loaded)
    torch.testing.assert_close(again.get_dist(rows).logits, saved.get_dist(rows).logits)


def test_a_critic_of_another_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 8 items and the critic 9"):
        make_tilted_semantic_id_actor(random_actor(SHARED), random_critic(9), 0.5)


def test_an_actor_that_cannot_be_tilted_is_refused() -> None:
    critic = random_critic(8)
    with pytest.raises(TypeError, match="expected an actor of make_semantic_id_actor"):
        make_tilted_semantic_id_actor(make_catalogue_actor(8, dim=4, history=3), critic, 0.5)
    tilted = make_tilted_semantic_id_actor(random_actor(SHARED), critic, 0.5)
    with pytest.raises(ValueError, match="tilted by a critic already"):
        make_tilted_semantic_id_actor(tilted, critic, 0.5)
