"""Times both ways around every size at which the kernels change from one way to another.

    python tests/benchmarks/kernel_thresholds.py    # on a GPU
    TRITON_INTERPRET=1 python tests/benchmarks/kernel_thresholds.py --sizes 300 700    # a rehearsal

Prints a table in Markdown, microseconds of the device. Where the way that a threshold takes is the
slower one, it is marked; the constants stand in the files that the table names.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torchrl_drpo_kernels._common import INTERPRETED, launches
from torchrl_drpo_kernels.drpo_loss import kernel as loss_kernel
from torchrl_drpo_kernels.drpo_loss import step
from torchrl_drpo_kernels.linear_log_prob import kernel_order
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.select import kernel as select_kernel
from torchrl_drpo_kernels.select import many_programs
from torchrl_drpo_kernels.select.rule import Rule

sys.path.insert(0, str(Path(__file__).parent))
from catalogue_steps import device_seconds

SIZES = (1_024, 4_096, 8_192, 16_384, 32_768, 65_536)
#: Items and their tile: what the rows are put in order by.
ITEMS, TILE_ITEMS = 262_144, 64


class Threshold(NamedTuple):
    """Up to ``today`` rows ``small`` runs, beyond it ``large``."""

    name: str
    today: int
    small: Callable[[], object]
    large: Callable[[], object]


def ways(n: int, device: torch.device) -> Iterator[Threshold]:
    """Every threshold, with its two ways on ``n`` rows."""
    quality, kappa = torch.randn(n, device=device), torch.full((1,), 0.1, device=device)
    yield Threshold(
        "select/kernel.py ONE_LAUNCH_ROWS",
        select_kernel.ONE_LAUNCH_ROWS,
        partial(launches(select_kernel.select_at_once), quality, None, kappa, Rule()),
        partial(launches(many_programs.select), quality, None, kappa, Rule()),
    )
    log_prob, weight = -torch.rand(n, device=device), torch.rand(n, device=device)
    counts = torch.tensor([n, n, n, n, 0], dtype=torch.int32, device=device)
    yield Threshold(
        "drpo_loss/step.py MAX_PLACES",
        step.MAX_PLACES,
        partial(loss_kernel.loss_and_slope, log_prob, weight, counts),
        partial(step.by_aten, log_prob, weight, counts),
    )
    hidden = torch.zeros(n, 16, device=device)
    action = torch.randint(ITEMS, (n,), device=device)
    live = torch.tensor([n], dtype=torch.int32, device=device)
    problem = Problem(hidden, hidden.new_zeros(1, 16).expand(ITEMS, 16), action, live, None, 1.0)
    slopes = Slopes(log_prob, -weight, weight)
    yield Threshold(
        "linear_log_prob/kernel_order.py COUNTED_ROWS",
        kernel_order.COUNTED_ROWS,
        partial(in_order, n, problem, slopes),
        partial(in_order, 0, problem, slopes),
    )


def in_order(counted_rows: int, problem: Problem, slopes: Slopes) -> object:
    """Rows in order by item, by counting up to so many of them."""
    today, kernel_order.COUNTED_ROWS = kernel_order.COUNTED_ROWS, counted_rows
    try:
        return launches(kernel_order.order)(problem, slopes, TILE_ITEMS)
    finally:
        kernel_order.COUNTED_ROWS = today


def microseconds(run: Callable[[], object], device: torch.device) -> float:
    """Median of the device's time; of one run's wall clock where there is no device."""
    run()
    if device.type == "cuda":
        return statistics.median(device_seconds(run, budget=0.1)) * 1e6
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e6


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().sizes
    if not (torch.cuda.is_available() or INTERPRETED):
        sys.exit("needs a CUDA device; TRITON_INTERPRET=1 rehearses without one")
    device = torch.device("cpu" if INTERPRETED else "cuda")
    say = partial(print, flush=True)
    say("| threshold | today | rows | up to it, us | beyond it, us | |")
    say("|:--|--:|--:|--:|--:|:--|")
    for n in sizes:
        for name, today, small, large in ways(n, device):
            few, many = microseconds(small, device), microseconds(large, device)
            wrong = few > many if n <= today else many > few
            mark = "the slower one is taken" if wrong else ""
            say(f"| {name} | {today:,} | {n:,} | {few:.1f} | {many:.1f} | {mark} |")


if __name__ == "__main__":
    main()
