"""Selection and moments over ranks: the bits of one process on the concatenated batch."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.distributed.gloo import cut, run_ranks
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.moments import moments_over
from torchrl_drpo.distributed.selection import select_top_over
from torchrl_drpo.functional.selection import select_top

CASES = 1000


def _case(number: int) -> dict[str, Any]:
    """One random batch; the kinds of rewards, sizes and masks come in turns."""
    g = torch.Generator().manual_seed(number)
    n = (1, 2, 7, 64, 320)[number % 5]
    dtype = torch.float64 if number % 7 == 0 else torch.float32
    x = torch.randn(n, generator=g, dtype=dtype)
    kind = number % 8
    if kind == 1:
        x = (x * 2).round() / 2
    elif kind == 2:
        x = torch.full((n,), -0.25, dtype=dtype)
    elif kind == 3:
        x = torch.where(x > 0, 0.0, -0.0).to(dtype)
    elif kind == 4:
        x = (x.abs() * 30).floor() / 100
    elif kind == 5:
        x = x * 10 ** torch.empty(n).uniform_(-30, 30, generator=g).to(dtype)
    elif kind == 6:
        x = 1e7 + x.round()
    elif kind == 7:
        x = -x.abs() - 3
    masked = (None, 0.7, None, 0.0)[(number // 8) % 4]
    return {
        "quality": x,
        "mask": None if masked is None else torch.rand(n, generator=g) < masked,
        "kappa": (0.05, 0.1, 0.35, 0.7, 1.0)[number % 5 if n > 5 else number % 4],
        "ties": ("first", "fraction")[(number // 3) % 2],
        "group": torch.randint(0, 4, (n,), generator=g) if number % 11 == 0 else None,
    }


def _own(case: dict[str, Any], rank: int, size: int, number: int) -> tuple[dict[str, Any], slice]:
    """A rank's rows. Groups lie on one rank, so a batch with groups is that of the last one."""
    rows = len(case["quality"])
    own = cut(rows, size, number)[rank]
    if case["group"] is not None:
        own = slice(0, rows if rank == size - 1 else 0)
    return {k: v[own] if isinstance(v, Tensor) else v for k, v in case.items()}, own


def _select_everything(rank: int, size: int, cases: int) -> dict[str, Any]:
    ranks, wrong, moments = Ranks(dist.group.WORLD), [], []
    for number in range(cases):
        case = _case(number)
        mine, own = _own(case, rank, size, number)
        want = select_top(case.pop("quality"), case.pop("kappa"), **case)
        got = select_top_over(ranks, mine.pop("quality"), mine.pop("kappa"), **mine)
        nu = want.threshold[own] if case["group"] is not None else want.threshold
        same = (
            torch.equal(got.mass, want.mass[own])
            and torch.equal(got.threshold, nu)
            and torch.equal(got.quota, want.quota)
        )
        if not same:
            wrong.append(number)
        moments.append(torch.stack([got.kept_mean, got.kept_std, got.batch_std]).double())
    before = ranks.calls, ranks.payload
    select_top_over(ranks, torch.zeros(5), 0.5)
    per_step = [ranks.calls - before[0], ranks.payload - before[1]]
    return {"wrong": wrong, "moments": torch.stack(moments), "per_step": per_step}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_rows_of_all_ranks_are_selected_as_one_batch(size: int, tmp_path: Path):
    found = run_ranks(_select_everything, size, tmp_path, CASES)
    for rank in found:
        assert rank["wrong"] == []
        torch.testing.assert_close(rank["moments"], found[0]["moments"], rtol=0, atol=0)
        # 3 histograms of 8 KiB, of three searches after the first, and 13 int64 from each rank
        assert rank["per_step"] == [4, 4 * (2048 + 3 * 2048 + 3 * 1024) + 13 * 8 * size]
    for number, (mean, kept, batch) in enumerate(found[0]["moments"].tolist()):
        case = _case(number)
        if number % 10 or case["group"] is not None:  # rational numbers take their time
            continue
        top = select_top(case["quality"], case["kappa"], mask=case["mask"])
        values = _valid(case)
        if not values:
            continue
        best, near = sorted(values)[-int(top.quota) :], _close_to(case["quality"])
        assert [mean, kept] == near(_exact(best)), number
        assert batch == near(_exact(values)[1]), number


def _valid(case: dict[str, Any]) -> list[float]:
    quality, mask = case["quality"], case["mask"]
    return (quality if mask is None else quality[mask]).tolist()


def _close_to(values: Tensor) -> Any:
    """Equal to within the rounding of the largest value's type."""
    return partial(
        pytest.approx, rel=1e-15, abs=torch.finfo(values.dtype).eps * float(values.abs().max())
    )


def _exact(values: list[float]) -> list[float]:
    """Mean and sample standard deviation in rational numbers."""
    exact = [Fraction(x) for x in values]
    mean = sum(exact) / len(exact)
    spread = sum((x - mean) ** 2 for x in exact) / max(len(exact) - 1, 1)
    return [float(mean), float(spread) ** 0.5]


def _moments_of_parts(rank: int, size: int) -> Tensor:
    ranks, out = Ranks(dist.group.WORLD), []
    for number in range(200):
        case = _case(number)
        own = cut(len(case["quality"]), size, number)[rank]
        mask = None if case["mask"] is None else case["mask"][own]
        out.append(torch.stack(moments_over(ranks, case["quality"][own], mask)))
    return torch.stack(out)


def test_moments_have_the_same_bits_however_the_rows_are_shared_out(tmp_path: Path):
    alone = run_ranks(_moments_of_parts, 1, tmp_path)[0]
    for found in run_ranks(_moments_of_parts, 2, tmp_path):
        assert torch.equal(found, alone)
    for number, (shift, mean, std) in enumerate(alone[::7].tolist()):
        case = _case(7 * number)
        if values := _valid(case):
            near = _close_to(case["quality"].double())
            assert [shift + mean, std] == near(_exact(values)), number
