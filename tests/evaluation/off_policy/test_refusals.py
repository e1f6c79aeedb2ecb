"""What would be a silent wrong answer: rows that are merged, reordered or taken for others."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Categorical, Independent, Normal

from torchrl_drpo.evaluation.off_policy import (
    ItemGroups,
    LoggedRows,
    LogKeys,
    choose_policy,
    fit_behavior,
    group_frequencies,
    score_log,
    weight_bounds,
)

HALF = torch.full((6,), 0.5).log()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_states_of_large_ids_are_not_merged(dtype: torch.dtype) -> None:
    class ByParity:
        in_keys = ("id",)

        def get_dist(self, rows: TensorDict) -> Categorical:
            odd = (rows["id"].long() % 2).unsqueeze(-1)
            return Categorical(probs=torch.where(odd == 1, torch.tensor([0.9, 0.1]), 0.5))

    start = 2**53 if dtype == torch.int64 else 2**40
    rows = TensorDict({"id": (start + torch.arange(2).repeat(3)).to(dtype)}, [6])
    rows["action"] = torch.zeros(6, dtype=torch.long)
    rows["propensity"] = torch.full((6,), 0.5)
    rows["next", "reward"] = torch.ones(6)
    found = score_log(ByParity(), rows).log_target
    expected = [math.log(0.5), math.log(0.9)] * 3
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_tables_are_not_flattened_into_another_order() -> None:
    reward = torch.arange(6.0)
    assert len(LoggedRows(reward.unsqueeze(-1), HALF, HALF)) == 6
    with pytest.raises(ValueError, match=r"reward has shape \(2, 3\)"):
        LoggedRows(reward.reshape(2, 3), HALF, HALF)
    with pytest.raises(ValueError, match=r"log_behavior has shape \(3, 2\)"):
        LoggedRows(reward, HALF, HALF.reshape(3, 2))


def test_clusters_are_whole_numbers() -> None:
    reward = torch.arange(6.0)
    with pytest.raises(ValueError, match="cluster holds ids"):
        LoggedRows(reward, HALF, HALF, cluster=torch.arange(6) / 10)
    rows = TensorDict({"user": torch.arange(6.0), "action": torch.zeros(6).long()}, [6])
    rows["propensity"] = torch.full((6,), 0.5)
    rows["next", "reward"] = reward
    with pytest.raises(ValueError, match="user holds ids"):
        score_log(Categorical(logits=torch.zeros(6, 2)), rows)
    plain = score_log(Categorical(logits=torch.zeros(6, 2)), rows, keys=LogKeys(cluster=()))
    assert plain.cluster is None


def test_an_empty_log_is_refused_in_words() -> None:
    rows = TensorDict({"action": torch.zeros(0).long()}, [0])
    with pytest.raises(ValueError, match="at least one logged row"):
        score_log(lambda rows: Categorical(logits=torch.zeros(len(rows), 2)), rows)


@pytest.mark.parametrize("item", [-1, 3])
def test_items_outside_the_catalogue_have_no_group(item: int) -> None:
    groups, action = ItemGroups(torch.tensor([0, 0, 1])), torch.tensor([0, item])
    with pytest.raises(ValueError, match=f"row 1 holds {item}"):
        group_frequencies(groups, action)
    with pytest.raises(ValueError, match=f"row 1 holds {item}"):
        groups.log_prob(Categorical(logits=torch.zeros(2, 3)), action)


@pytest.mark.parametrize(("dims", "shape"), [(3, (6, 1)), (1, (6,)), (3, (6, 4)), (6, (6,))])
def test_actions_of_other_vectors_are_not_broadcast(dims: int, shape: tuple[int, ...]) -> None:
    rows = TensorDict({"action": torch.zeros(shape), "log_propensity": torch.zeros(6)}, [6])
    rows["next", "reward"] = torch.ones(6)
    policy = Independent(Normal(torch.zeros(6, dims), 1.0), 1)
    with pytest.raises(ValueError, match="the actions have shape"):
        score_log(policy, rows, density=True)
    rows["action"] = torch.zeros(6, dims)
    want = -dims / 2 * math.log(2 * math.pi)
    found = score_log(policy, rows, density=True).log_target
    assert found.tolist() == pytest.approx([want] * 6, rel=1e-6)


def test_candidates_of_other_clusters_are_not_compared() -> None:
    reward, user = torch.arange(6.0), torch.arange(6) // 2
    rows = LoggedRows(reward, HALF, HALF, cluster=user)
    for other in (None, user.flip(0)):
        with pytest.raises(ValueError, match="other clusters"):
            choose_policy({"a": rows, "b": LoggedRows(reward, HALF, HALF, cluster=other)})


def test_bounds_of_weights_that_no_float_holds() -> None:
    beyond = torch.tensor([-800.0, -1.0, -1.0])
    rows = LoggedRows(torch.tensor([0.0, 1.0, 1.0]), torch.full((3,), -1.0), beyond)
    with pytest.raises(ValueError, match=r"row 0 is e\^799"):
        weight_bounds(rows, 2.0, estimator="IPS")
    assert weight_bounds(rows, 2.0).high < 1e-6  # SNIPS is that row, whose reward is 0


@pytest.mark.parametrize("wrong", [{"floor": -0.1}, {"floor": 1.5}, {"draws": 0}])
def test_behavior_settings_are_checked(wrong: dict[str, float]) -> None:
    rows = TensorDict({"action": torch.arange(30) % 3}, [30])
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fit_behavior(rows, lambda _: lambda r: Categorical(logits=torch.zeros(len(r), 3)), **wrong)
