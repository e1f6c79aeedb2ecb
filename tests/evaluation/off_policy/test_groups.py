"""Groups of items: dense sums, MIPS and OffCEM at their limits, and what they are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch.distributions import Categorical, Normal
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import CatalogueCategorical
from torchrl_drpo.evaluation.off_policy.estimators import (
    doubly_robust,
    ips,
    marginalised_ips,
    off_cem,
)
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups, group_frequencies
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows


def contextual_actor(hidden, items) -> ProbabilisticActor:
    """Softmax policy whose state is looked up by the row's context."""
    return ProbabilisticActor(
        TensorDictModule(lambda context: hidden[context], ["context"], ["hidden"]),
        in_keys=["hidden"],
        distribution_class=lambda hidden: CatalogueCategorical(hidden, items),
    )


@pytest.mark.parametrize("kind", ["catalogue", "bias", "block"])
@pytest.mark.parametrize("tile", [3, 2**18])
def test_group_log_probabilities_equal_dense_sums(monkeypatch, kind, tile):
    monkeypatch.setattr("torchrl_drpo.evaluation.off_policy.groups._SCORES_AT_A_TIME", tile)
    hidden, items = torch.randn(40, 3), torch.randn(23, 3)
    bias = torch.randn(23) if kind == "bias" else None
    dist = CatalogueCategorical(hidden, items, bias=bias, temperature=0.5)
    logits = dist.logits.double()
    given = Categorical(logits=dist.logits) if kind == "block" else dist
    group = torch.randint(-3, 6, (23,))
    action = torch.randint(23, (40,))
    same = group[None] == group[action][:, None]
    want = logits.masked_fill(~same, -torch.inf).logsumexp(-1)
    got = ItemGroups(group).log_prob(given, action)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_groups_are_made_of_categories_cells_and_prefixes():
    codes = torch.tensor([[0, 1, 1], [0, 1, 2], [0, 2, 1], [5, 1, 1]])
    assert [len(ItemGroups.from_codes(codes, levels)) for levels in (1, 2, 3)] == [2, 3, 4]
    vectors = torch.tensor([[0.0], [0.1], [5.0]])
    cells = ItemGroups.from_vectors(vectors, 2)
    assert cells.of(torch.tensor([0])) == cells.of(torch.tensor([1])) != cells.of(torch.tensor([2]))
    groups = ItemGroups(torch.tensor([9, -1, 9]))
    assert [groups.members(g).tolist() for g in range(2)] == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: ItemGroups(torch.zeros(3)), ValueError, "integers"),
        (lambda: ItemGroups(torch.zeros(3, 1).long()), ValueError, r"\[V\]"),
        (lambda: ItemGroups.from_codes(torch.zeros(3, 2).long(), 3), ValueError, "levels"),
        (
            lambda: ItemGroups(torch.arange(3)).log_prob(
                Categorical(torch.ones(1, 4)), torch.tensor([0])
            ),
            ValueError,
            "3 items",
        ),
        (
            lambda: ItemGroups(torch.arange(3)).log_prob(
                Normal(torch.zeros(1), 1.0), torch.tensor([0])
            ),
            TypeError,
            "DecodedPolicy",
        ),
    ],
)
def test_what_has_no_groups_is_refused(call, kind, match):
    with pytest.raises(kind, match=match):
        call()


class World:
    """A catalogue with equal rewards within groups, a logging policy and another one.

    Policies differ a lot between items of a group, and little between groups.
    """

    def __init__(self, items: int, groups: int, contexts: int = 20, width: int = 8) -> None:
        g = torch.Generator().manual_seed(0)
        self.vectors = torch.randn(items, width, generator=g)
        self.group = torch.randint(groups, (items,), generator=g)
        hidden = 0.5 * torch.randn(2, contexts, width, generator=g)
        self.behavior, self.target = (contextual_actor(h, self.vectors) for h in hidden)
        self.reward = 0.1 + 0.8 * torch.rand(contexts, groups, generator=g)
        # A model that is .2 off, by context and group: right only in what lies within groups.
        self.model_table = self.reward + 0.2 * torch.randn(contexts, groups, generator=g)
        self.contexts = torch.arange(contexts)
        self.generator = g

    def probs(self, actor):
        return actor.get_dist(TensorDict({"context": self.contexts}, [len(self.contexts)])).probs

    @property
    def truth(self) -> float:
        return (self.probs(self.target) * self.reward[:, self.group]).sum(-1).mean().item()

    def log(self, rows: int) -> TensorDict:
        context = torch.arange(rows) % len(self.contexts)
        action, probs = torch.empty(rows, dtype=torch.long), self.probs(self.behavior)
        for c in self.contexts.tolist():
            mine = context == c
            drawn = torch.multinomial(probs[c], int(mine.sum()), True, generator=self.generator)
            action[mine] = drawn
        expected = self.reward[context, self.group[action]]
        click = (torch.rand(rows, generator=self.generator) < expected).float()
        log = TensorDict({"context": context, "action": action}, [rows])
        return log.set(("next", "reward"), click.unsqueeze(-1))

    def model(self) -> InnerProductReward:
        one_hot = torch.eye(len(self.contexts))
        return InnerProductReward(
            lambda rows: one_hot[rows["context"]],
            self.model_table[:, self.group].T.contiguous(),
            in_keys=["context"],
        )


def test_groups_of_one_item_are_ips_and_dr():
    world = World(items=60, groups=7)
    rows = score_log(
        world.target,
        world.log(400),
        reward_model=world.model(),
        behavior=world.behavior,
        groups=ItemGroups(torch.randperm(60)),
    )
    torch.testing.assert_close(rows.log_target_group, rows.log_target, rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.log_behavior_group, rows.log_behavior, rtol=0, atol=1e-12)
    for whole, by_item in ((marginalised_ips, ips), (off_cem, doubly_robust)):
        assert whole(rows).value == pytest.approx(by_item(rows).value, rel=1e-12)
        assert whole(rows).standard_error == pytest.approx(by_item(rows).standard_error, rel=1e-9)
    assert rows.never_logged_group == pytest.approx(rows.never_logged, abs=1e-9)


def test_a_large_catalogue_with_equal_rewards_within_groups():
    world, replications, size = World(items=50_000, groups=100), 60, 1_000
    rows = score_log(
        world.target,
        world.log(replications * size),
        reward_model=world.model(),
        behavior=world.behavior,
        groups=ItemGroups(world.group),
    )
    each, truth = [rows.take(part) for part in torch.randperm(len(rows)).split(size)], world.truth
    error = {
        estimator.__name__: torch.tensor(
            [(estimator(part).value - truth) ** 2 for part in each]
        ).mean()
        for estimator in (ips, doubly_robust, marginalised_ips, off_cem)
    }
    assert error["marginalised_ips"] < error["ips"] / 10
    assert error["off_cem"] < error["ips"] / 10
    assert error["off_cem"] < error["doubly_robust"] / 3
    held = [part.low <= truth <= part.high for part in map(off_cem, each)]
    assert sum(held) >= 53  # of 60: less than 1 in 100 logs of a 95% interval would fail
    # the share never logged is of items for IPS, of groups for MIPS
    assert ips(rows).diagnostics.never_logged > 0.05
    assert off_cem(rows).diagnostics.never_logged < 1e-6


def test_frequencies_are_the_propensities_of_a_logger_that_looks_at_nothing():
    world = World(items=60, groups=7)
    popular = torch.softmax(torch.randn(60), 0)
    log = world.log(40_000)
    log["action"] = torch.multinomial(popular, 40_000, True)
    log["propensity"] = popular[log["action"]]
    groups = ItemGroups(world.group)
    rows = score_log(world.target, log, groups=groups)
    with pytest.raises(ValueError, match="log_behavior_group"):
        marginalised_ips(rows)
    fitted = replace(rows, log_behavior_group=group_frequencies(groups, log["action"]))
    mass = torch.zeros(7).index_add_(0, world.group, popular)
    want = mass[world.group[log["action"]]].double()
    torch.testing.assert_close(fitted.log_behavior_group.exp(), want, rtol=0.05, atol=0)
    assert marginalised_ips(fitted).diagnostics.mean_weight == pytest.approx(1, abs=0.1)


def test_mips_is_open_bandit_pipelines_in_one_embedding_dimension():
    obp = pytest.importorskip("obp.ope")
    world = World(items=60, groups=7)
    log = world.log(500)
    rows = score_log(world.target, log, behavior=world.behavior, groups=ItemGroups(world.group))
    one_hot = torch.nn.functional.one_hot(world.group, 7).double().unsqueeze(-1)
    theirs = obp.MarginalizedInverseProbabilityWeighting(n_actions=60).estimate_policy_value(
        reward=rows.reward.numpy(),
        action=log["action"].numpy(),
        action_embed=world.group[log["action"]].unsqueeze(-1).numpy(),
        pi_b=world.probs(world.behavior)[log["context"]].unsqueeze(-1).double().numpy(),
        action_dist=world.probs(world.target)[log["context"]].unsqueeze(-1).double().numpy(),
        p_e_a=one_hot.numpy(),
    )
    assert marginalised_ips(rows).value == pytest.approx(theirs, abs=1e-6)


def test_rows_keep_what_is_said_of_all_of_them():
    rows = LoggedRows(*torch.zeros(3, 4), fitted=True, never_logged=0.7, log_rows=9)
    part = rows.take(torch.tensor([0, 2]))
    assert (part.fitted, part.never_logged, part.log_rows) == (True, 0.7, 9)
    assert ips(part).verdict == "meaningless"
    assert ips(replace(rows, never_logged=0.0)).diagnostics.fitted
