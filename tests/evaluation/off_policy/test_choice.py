"""Choosing a policy: the rule by hand in NumPy, and worlds where it is clear what is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluation.off_policy.worlds import draw, logged
from torchrl_drpo.evaluation.off_policy import (
    ESTIMATORS,
    LoggedRows,
    against,
    choose_policy,
    direct_method,
    doubly_robust,
    ips,
    snips,
)


def make_candidates(
    rows: int = 3_000, users: int | None = None, error: float = 0.0, count: int = 4
):
    """One log under several policies, with a model that is wrong by ``error`` of item 1 alone."""
    world = draw(rows=rows, users=users)
    world["model"] = world["expected"].clone()
    world["model"][:, 1] += error
    out, truth = {}, {}
    for number in range(4):
        g = torch.Generator().manual_seed(100 + number)
        world["target"] = torch.softmax(1.5 * torch.randn(3, 6, generator=g).double(), -1)
        out[f"policy {number}"] = logged(world)
        truth[f"policy {number}"] = (world["target"] * world["expected"]).sum().item() / 3
    return out, truth


def by_hand(candidates: dict[str, LoggedRows], users: int | None) -> dict[str, float]:
    """Estimated mean squared errors of IPS, DM and DR against SNDR, in NumPy."""
    terms: dict[str, list[np.ndarray]] = {"IPS": [], "DM": [], "DR": [], "SNDR": []}
    for rows in candidates.values():
        w, r = np.exp(rows.log_ratio.numpy()), rows.reward.numpy()
        q, v = rows.prediction.numpy(), rows.value.numpy()
        terms["IPS"].append(w * r)
        terms["DM"].append(v)
        terms["DR"].append(v + w * (r - q))
        ratio = (w * (r - q)).sum() / w.sum()
        # rows whose mean is SNDR, with its linearisation's deviations
        terms["SNDR"].append(v + ratio + w * (r - q - ratio) / w.mean())
    n = len(w)
    units = np.arange(n) if users is None else np.arange(n) % users

    def variance(x: np.ndarray) -> float:
        total = 0.0
        for each in x - x.mean(1, keepdims=True):
            sums = np.bincount(units, weights=each)
            total += len(sums) / (len(sums) - 1) * (sums**2).sum() / n**2
        return total

    # What all candidates share is no reason to choose one.
    relative = {name: np.stack(x) - np.stack(x).mean(0) for name, x in terms.items()}
    out = {}
    for name in ("IPS", "DM", "DR"):
        apart = relative[name] - relative["SNDR"]
        bias = (apart.mean(1) ** 2).sum() - 2 * variance(apart)
        out[name] = max(0.0, bias) + variance(relative[name])
    return out


@pytest.mark.parametrize("users", [None, 150])
@pytest.mark.parametrize("error", [0.0, 0.5])
def test_squared_errors_are_those_by_hand(users: int | None, error: float) -> None:
    candidates, _ = make_candidates(users=users, error=error)
    three = {"IPS": ips, "DM": direct_method, "DR": doubly_robust}
    found = choose_policy(candidates, three)
    want = by_hand(candidates, users)
    assert found.squared_error == pytest.approx(want, rel=1e-9)
    assert found.estimator == min(want, key=lambda name: want[name])
    values = {name: three[found.estimator](rows).value for name, rows in candidates.items()}
    assert {name: each.value for name, each in found.estimates.items()} == values
    assert found.policy == max(values, key=lambda name: values[name])


def test_a_right_model_is_taken_and_a_wrong_one_is_left() -> None:
    right, truth = make_candidates()
    found = choose_policy(right)
    assert found.estimator == "DM"
    assert truth[found.policy] == max(truth.values())
    wrong, truth = make_candidates(error=0.8, rows=20_000)
    by_model = {name: direct_method(rows).value for name, rows in wrong.items()}
    assert truth[max(by_model, key=lambda name: by_model[name])] < max(truth.values())
    found = choose_policy(wrong)
    assert found.estimator != "DM"
    assert truth[found.policy] == max(truth.values())


def test_a_bias_that_all_candidates_share_is_none() -> None:
    candidates, _ = make_candidates(rows=20_000)
    shifted = {
        name: LoggedRows(
            rows.reward,
            rows.log_target,
            rows.log_behavior,
            prediction=rows.prediction + 0.3,
            value=rows.value + 0.3,
        )
        for name, rows in candidates.items()
    }
    assert choose_policy(shifted).estimator == "DM"
    alone = {"policy 0": shifted["policy 0"]}  # there is nothing to share it with
    assert choose_policy(alone).estimator != "DM"


def test_estimators_are_those_that_the_rows_have_columns_for() -> None:
    candidates, _ = make_candidates()
    plain = {
        name: LoggedRows(rows.reward, rows.log_target, rows.log_behavior)
        for name, rows in candidates.items()
    }
    assert set(choose_policy(plain).squared_error) == {
        "IPS", "clipped IPS", "SNIPS", "sub-Gaussian IPS",
    }  # fmt: skip
    assert set(choose_policy(candidates).squared_error) == set(ESTIMATORS) - {"MIPS", "OffCEM"}
    world = draw()
    grouped = {"one": logged(world, torch.arange(6) // 2), "same": logged(world, torch.arange(6))}
    assert set(choose_policy(grouped).squared_error) == set(ESTIMATORS)


def test_what_was_chosen_can_be_compared() -> None:
    candidates, _ = make_candidates()
    found = choose_policy(candidates, {"DR": doubly_robust})
    apart = against(found.estimates, found.estimates["policy 0"])
    assert apart["policy 0"].value == 0.0
    assert apart[found.policy].value >= 0.0


def test_what_is_no_choice_is_refused() -> None:
    candidates, _ = make_candidates(rows=50)
    with pytest.raises(ValueError, match="at least one candidate"):
        choose_policy({})
    with pytest.raises(ValueError, match="at least one estimator"):
        choose_policy(candidates, {})
    other, _ = make_candidates(rows=60)
    with pytest.raises(ValueError, match="'policy 0' and 'b' have other rewards"):
        choose_policy({"policy 0": candidates["policy 0"], "b": other["policy 0"]})
    one = {"policy 0": candidates["policy 0"].take(torch.tensor([3]))}
    with pytest.raises(ValueError, match="single row"):
        choose_policy(one)
    rows = candidates["policy 0"]
    never = LoggedRows(rows.reward, torch.full((50,), -torch.inf), rows.log_behavior)
    with pytest.raises(ValueError, match=r"candidate 'never': .* no overlap"):
        choose_policy({"policy 0": rows, "never": never}, {"SNIPS": snips})
