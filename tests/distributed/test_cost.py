"""The cost model: its bytes are those that the collectives were handed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.gloo import run_ranks
from torchrl_drpo.cli import main
from torchrl_drpo.distributed.categorical import ShardedCatalogueCategorical
from torchrl_drpo.distributed.cost import Step, log_prob_bytes, report, selection_bytes
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.items import ItemShards
from torchrl_drpo.distributed.selection import select_top_over
from torchrl_drpo.pipeline.config.cost import CostConfig

CASES = ((32, 64, 1000, torch.float32), (5, 16, 77, torch.float64), (4, 8, 9, torch.bfloat16))


def step(**changes: float) -> Step:
    """The step that `drpo cost` takes unless it is told otherwise."""
    numbers = asdict(CostConfig())
    del numbers["json"]
    return Step(**numbers | changes)


def _counted(rank: int, size: int) -> list[list[int]]:
    ranks, found = Ranks(dist.group.WORLD), []
    for rows, dim, items, dtype in CASES:
        shards = ItemShards(ranks, items)
        hidden = torch.randn(rows, dim, dtype=dtype, requires_grad=True)
        table = torch.randn(shards.high - shards.low, dim, dtype=dtype, requires_grad=True)
        policy = ShardedCatalogueCategorical(hidden, table, shards=shards)
        before = ranks.payload, ranks.calls
        loss = policy.log_prob(torch.randint(0, items, (rows,))).sum()
        forward = ranks.payload, ranks.calls
        loss.backward()
        after = ranks.payload, ranks.calls
        select_top_over(ranks, torch.randn(rows), 0.3)
        found.append(
            [
                forward[0] - before[0],
                after[0] - forward[0],
                ranks.payload - after[0],
                forward[1] - before[1],
                after[1] - forward[1],
                ranks.calls - after[1],
            ]
        )
    return found


@pytest.mark.parametrize("size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_bytes_are_those_that_are_handed_over(size: int, tmp_path: Path):
    for found in run_ranks(_counted, size, tmp_path):
        for counted, (rows, dim, _, dtype) in zip(found, CASES, strict=True):
            numbers = 16 if dtype == torch.float64 else 8  # score and normaliser of a row
            forward, backward = log_prob_bytes(size * rows, dim, size, dtype.itemsize)
            extra = (numbers - 8) * size * rows
            assert counted == [
                forward + extra, backward + extra, selection_bytes(size), 4, 2, 4
            ]  # fmt: skip


def test_a_step_of_a_thousand_gpus_and_a_billion_items_is_bound_by_its_scores():
    found = report(step(ranks=1024, rows=4096, items=10**9, dim=128, kappa=0.1, item_ranks=1024))
    assert found["rows scored"] == 1024 * 410
    assert found["items of a rank"] == 976_563
    # 8 D K V / Rv operations at 790 TFLOP/s
    assert found["scores, ms"] == pytest.approx(8 * 128 * 1024 * 410 * 976_563 / 790e12 * 1e3)
    assert found["scores, ms"] > 0.9 * found["step, ms"]
    assert found["copies of the table, ms"] == 0
    copied = report(step(ranks=1024, items=10**9, item_ranks=8))
    assert copied["copies of the table, ms"] > copied["scores, ms"]


def test_more_ranks_for_the_table_hold_less_of_it():
    by_ranks = [report(step(ranks=64, item_ranks=r)) for r in (1, 8, 64)]
    held = [found["table, gradient and Adam, bytes"] for found in by_ranks]
    assert held == [held[0], held[0] / 8, held[0] / 64]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"items": 0}, "items must be"), ({"kappa": 0.0}, "kappa"), ({"item_ranks": 3}, "divide")],
)
def test_numbers_that_make_no_step_are_refused(wrong: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        step(**wrong)


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]):
    assert main(["cost", "--ranks", "64", "--item-ranks", "64", "--items", "1000000"]) == 0
    printed = capsys.readouterr().out
    assert "log-prob, bytes" in printed
    assert "15,625" in printed  # items of a rank
    assert main(["cost", "--item-ranks", "3"]) == 2
