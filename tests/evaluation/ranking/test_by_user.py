from __future__ import annotations

import math

import pytest
import torch

from torchrl_drpo.evaluation.ranking import jackknife, without_groups
from torchrl_drpo.evaluation.statistics import jackknife_interval
from torchrl_drpo.evaluation.statistics.student import student_t_quantile


def mean_of(values: torch.Tensor):
    return lambda rows: {"m": values[rows].mean().item()}


def test_of_a_mean_over_single_rows_it_is_the_usual_interval() -> None:
    values = torch.randn(25, generator=torch.Generator().manual_seed(0)).double()
    found = jackknife(mean_of(values), torch.arange(25), groups=25)["m"]
    assert found.mean == pytest.approx(values.mean().item())
    usual = student_t_quantile(0.95, 24) * values.std().item() / 5
    assert found.half_width == pytest.approx(usual, rel=1e-9)


def test_rows_of_a_user_count_as_one() -> None:
    values = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    user = torch.arange(40)
    once = jackknife(mean_of(values), user, groups=40)["m"]
    thrice = jackknife(mean_of(values.repeat(3)), user.repeat(3), groups=40)["m"]
    assert thrice.half_width == pytest.approx(once.half_width, rel=1e-9)
    alone = jackknife(mean_of(values.repeat(3)), torch.arange(120), groups=120)["m"]
    assert alone.half_width < 0.62 * once.half_width


def test_intervals_of_a_ratio_cover() -> None:
    generator = torch.Generator().manual_seed(2)
    users, rows, covered = 200, 1_000, 0
    for _ in range(200):
        taste = 0.3 + 0.4 * torch.rand(users, generator=generator)
        user = torch.randint(users, (rows,), generator=generator)
        best = torch.rand(rows, generator=generator) < 0.4
        chance = torch.where(best, taste[user], 0.5 * taste[user])
        hit = (torch.rand(rows, generator=generator) < chance).double()

        def lift(some, hit=hit, best=best):
            return {"lift": (hit[some & best].mean() / hit[some & ~best].mean()).item()}

        found = jackknife(lift, user)["lift"]
        covered += found.mean - found.half_width < 2.0 < found.mean + found.half_width
    assert 0.91 < covered / 200 <= 0.99  # nominal .95, standard error .015


def test_differences_of_policies_on_the_same_users_are_paired() -> None:
    generator = torch.Generator().manual_seed(4)
    user = torch.arange(60)
    ease = torch.randn(60, generator=generator).double()
    a, b = ease + 0.1, ease + 0.02 * torch.randn(60, generator=generator).double()
    without = [without_groups(mean_of(each), user, groups=60)["m"] for each in (a, b)]
    difference = [x - y for x, y in zip(*without, strict=True)]
    paired = jackknife_interval((a.mean() - b.mean()).item(), difference)
    usual = student_t_quantile(0.95, 59) * (a - b).std().item() / math.sqrt(60)
    assert paired.half_width == pytest.approx(usual, rel=1e-9)
    assert paired.half_width < 0.1 * jackknife(mean_of(a), user, groups=60)["m"].half_width


def test_what_does_not_vary_or_is_not_finite_has_no_interval() -> None:
    values = torch.ones(12)
    assert math.isnan(jackknife(mean_of(values), torch.arange(12))["m"].half_width)
    assert math.isnan(jackknife(mean_of(values), torch.zeros(12).long())["m"].half_width)
    of_nothing = jackknife(lambda rows: {"m": math.inf}, torch.arange(12))["m"]
    assert (of_nothing.mean, math.isnan(of_nothing.half_width)) == (math.inf, True)


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [(torch.arange(3), 1, "groups must be"), (torch.zeros(0).long(), 5, "at least one row")],
)
def test_what_cannot_be_dealt_is_refused(user, groups, message) -> None:
    with pytest.raises(ValueError, match=message):
        jackknife(mean_of(torch.zeros(3)), user, groups=groups)
