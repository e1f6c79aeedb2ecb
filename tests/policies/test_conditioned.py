"""Quality as a condition: levels, what guidance does, and that it learns what it says."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import BehaviorCloningLoss, make_catalogue_actor
from torchrl_drpo.policies.conditioned import (
    ConditionOnQuality,
    level_edges,
    make_conditioned_actor,
    quality_levels,
)
from torchrl_drpo.policies.served import asked_policy


def test_levels_of_few_values_are_the_values() -> None:
    stars = torch.tensor([1.0, 2, 3, 4, 5]).repeat(7)
    edges = level_edges(stars)
    assert edges == (2.0, 3.0, 4.0, 5.0)
    assert torch.equal(quality_levels(stars, edges), stars.long() - 1)


def test_levels_of_many_values_are_quarters() -> None:
    quality = torch.rand(10_000)
    level = quality_levels(quality, level_edges(quality))
    assert level.bincount().tolist() == [2500] * 4


@pytest.mark.parametrize("most", [0.0, 0.5, 1.0])
def test_a_value_of_most_rows_leaves_at_least_two_levels(most: float) -> None:
    quality = torch.cat([torch.full((900,), most), torch.rand(100)])
    edges = level_edges(quality)
    level = quality_levels(quality, edges)
    assert len(edges) >= 1
    assert level.unique().tolist() == list(range(len(edges) + 1))  # no level is empty


def test_whole_numbers_have_levels_between_edges_that_are_none() -> None:
    clicks = torch.tensor([0, 1, 2, 1])
    assert quality_levels(clicks, (0.5, 1.5)).tolist() == [0, 1, 2, 1]
    assert quality_levels(clicks, level_edges(clicks)).tolist() == [0, 1, 2, 1]
    found = ConditionOnQuality((0.5,), unknown=0.0)(rows_of(clicks, context=False))
    assert found["observation", "context"].flatten().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_quality_that_is_not_finite_is_no_level(value: float) -> None:
    """NaN sorts above every edge: it would be what the policy is asked for."""
    with pytest.raises(ValueError, match="quality"):
        ConditionOnQuality()(rows_of(torch.tensor([0.1, value])))
    with pytest.raises(ValueError, match="edges must be increasing finite numbers"):
        ConditionOnQuality((value,))


def test_rows_of_one_worth_and_of_none_are_refused() -> None:
    with pytest.raises(ValueError, match="all 5 rows have quality 1"):
        level_edges(torch.ones(5))
    with pytest.raises(ValueError, match="quality"):
        level_edges(torch.tensor([0.0, torch.nan]))


def rows_of(reward: torch.Tensor, context: bool = True) -> TensorDict:
    td = TensorDict({"next": {"reward": reward.unsqueeze(-1)}}, [len(reward)])
    if context:
        td["observation", "context"] = torch.full((len(reward), 1), 2)
    return td


@pytest.mark.parametrize("context", [True, False])
def test_the_level_is_the_last_column(context: bool) -> None:
    reward = torch.rand(5_000)
    found = ConditionOnQuality(unknown=0.2)(rows_of(reward, context))["observation", "context"]
    assert found.shape == (5_000, 1 + context)
    level = found[:, -1]
    hidden = level == -1
    assert abs(hidden.float().mean() - 0.2) < 0.03
    assert torch.equal(level[~hidden], quality_levels(reward, (0.25, 0.5, 0.75))[~hidden])


def test_the_draws_go_on_where_a_saved_state_was() -> None:
    first, second = ConditionOnQuality(unknown=0.5), ConditionOnQuality(unknown=0.5, seed=9)
    first(rows_of(torch.rand(10)))
    second.load_state_dict(first.state_dict())
    reward = torch.rand(50)
    one, other = (each(rows_of(reward))["observation", "context"] for each in (first, second))
    assert torch.equal(one, other)


@pytest.mark.parametrize("edges", [(), (0.5, 0.5), (0.7, 0.2)])
def test_edges_that_do_not_increase_are_refused(edges) -> None:
    with pytest.raises(ValueError, match="increasing"):
        ConditionOnQuality(edges)


def trained_actor(sizes=(3, 4)):
    actor = make_catalogue_actor(6, dim=4, history=2, context_sizes=sizes).double().eval()
    asked_policy(actor).bias.data.normal_()
    return actor


@pytest.mark.parametrize("away", [0, -1])
@pytest.mark.parametrize("guidance", [0.0, 0.7, 3.0])
def test_guidance_divides_by_what_it_leads_away_from(guidance: float, away: int) -> None:
    """p proportional to best (best / away)^w, where the items' own biases count once."""
    actor = trained_actor()
    bias = asked_policy(actor).bias
    history = torch.randint(-1, 6, (5, 2))
    context = torch.randint(-1, 3, (5, 1))

    def log_probs(level: int) -> torch.Tensor:
        column = torch.full((5, 1), level)
        td = {"history": history, "context": torch.cat([context, column], -1)}
        return actor.get_dist(TensorDict({"observation": td}, [5])).logits - bias

    wanted = log_probs(3) + guidance * (log_probs(3) - log_probs(away)) + bias
    rows = TensorDict({"observation": {"history": history, "context": context}}, [5])
    got = make_conditioned_actor(actor, guidance, away=away).get_dist(rows).logits
    torch.testing.assert_close(got, wanted.log_softmax(-1))


def test_without_other_columns_no_context_is_read() -> None:
    actor = make_conditioned_actor(trained_actor((4,)), 1.0)
    assert actor.in_keys == [("observation", "history")]
    rows = TensorDict({"observation": {"history": torch.tensor([[-1, 3]])}}, [1])
    assert actor.get_dist(rows).probs.shape == (1, 6)


def test_what_cannot_be_a_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="no context column"):
        make_conditioned_actor(make_catalogue_actor(6, dim=4, history=2))
    for options in ({"best": 4}, {"away": -2}):
        with pytest.raises(ValueError, match="must lie in"):
            make_conditioned_actor(trained_actor(), **options)
    with pytest.raises(ValueError, match="guidance"):
        make_conditioned_actor(trained_actor(), -0.5)


def test_cloning_learns_the_shares_of_each_level() -> None:
    """On a log without histories the optimum is known: p(a | level), and p(a) of unknown ones."""
    g = torch.Generator().manual_seed(0)
    item = torch.randint(4, (4_000,), generator=g)
    reward = (torch.rand(4_000, generator=g) < (item + 1) / 5).float()  # later items are better
    actor = make_catalogue_actor(4, dim=8, history=1, context_sizes=(2,), bias=False)
    loss = BehaviorCloningLoss(actor)
    rows = rows_of(reward, context=False)
    rows["action"] = item
    rows["observation", "history"] = torch.full((4_000, 1), -1)
    rows = ConditionOnQuality(level_edges(reward))(rows)
    optimizer = torch.optim.Adam(actor.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(rows)["loss_actor"].backward()
        optimizer.step()
    shares = [
        item[reward == level].bincount(minlength=4) / (reward == level).sum() for level in (0, 1)
    ]
    one = TensorDict({"observation": {"history": torch.tensor([[-1]])}}, [1])
    best = make_conditioned_actor(actor, 0.0).get_dist(one).probs[0]
    torch.testing.assert_close(best, shares[1], atol=0.02, rtol=0)
    guided = make_conditioned_actor(actor, 1.0).get_dist(one).probs[0]
    wanted = shares[1] ** 2 / shares[0]
    torch.testing.assert_close(guided, wanted / wanted.sum(), atol=0.03, rtol=0)
