"""Times on this GPU what the kernels' thresholds decide between.

    python tests/benchmarks/kernel_thresholds.py
    python tests/benchmarks/kernel_thresholds.py --only select order

Each table is one decision: ``select.kernel.ONE_LAUNCH_ROWS`` and the tiles of both selections,
``kernel_order.COUNTED_ROWS``, ``drpo_loss.step.MAX_PLACES``, ``shapes.MERGED_PARTS``. Microseconds
of the device, the host's launches left out; today's choice is marked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torchrl_drpo_kernels.drpo_loss import kernel as loss
from torchrl_drpo_kernels.drpo_loss import step
from torchrl_drpo_kernels.linear_log_prob import kernel, kernel_order, shapes
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.select import kernel as one_program
from torchrl_drpo_kernels.select import many_programs
from torchrl_drpo_kernels.select.rule import Rule

sys.path.insert(0, str(Path(__file__).parent))
from catalogue_steps import device_seconds

#: A way's name, whether it is today's, and what it runs.
Way = tuple[str, bool, Callable[[], object]]
TILES = (512, 1024, 2048)
SELECTED = (320, 4096, 8192, 16_384, 32_768, 262_144, 1_000_000, 10_000_000)
ORDERED = (410, 4096, 8192, 16_384, 32_768)
PLACES = (410, 4096, 16_384, 65_536)
MERGED = (4, 8, 16, 32)


def select_ways(n: int, device: str) -> Iterator[Way]:
    """One program, which is left out where it would take milliseconds, or many."""
    quality, kappa = torch.randn(n, device=device), torch.tensor([0.1], device=device)
    alone = n <= one_program.ONE_LAUNCH_ROWS
    today = one_program.SMALL_TILE if n <= 512 else one_program.LARGE_TILE
    for tile in TILES:
        if n <= 4 * one_program.ONE_LAUNCH_ROWS:
            run = partial(one_program.select_at_once, quality, None, kappa, Rule(), tile)
            yield f"one program, tile {tile}", alone and tile == today, run
    for tile in TILES:
        run = partial(many_programs.select, quality, None, kappa, Rule(), tile)
        yield f"many programs, tile {tile}", not alone and tile == many_programs.TILE, run


def order_ways(n: int, device: str, items: int = 262_144) -> Iterator[Way]:
    """Rows in the order of their items: counted, or sorted by the library."""
    action, row = torch.randint(items, (n,), device=device), torch.ones(n, device=device)
    table = torch.empty(items, 16, device=device, dtype=torch.float16)
    problem = Problem(row[:, None].half(), table, action, None, None, 1.0)
    for name, bound in (("counted", n), ("sorted", n - 1)):

        def run(bound: int = bound) -> object:
            with patch.object(kernel_order, "COUNTED_ROWS", bound):
                return kernel_order.order(problem, Slopes(row, row, row), 64)

        yield name, (n <= kernel_order.COUNTED_ROWS) == (name == "counted"), run


def loss_ways(n: int, device: str) -> Iterator[Way]:
    """The loss and its slope: one program of Triton, or ATen."""
    row = torch.rand(n, device=device)
    counts = torch.full((5,), n, device=device, dtype=torch.int32)
    few = n <= step.MAX_PLACES
    yield "one program", few, partial(loss.loss_and_slope, row, row, counts)

    def aten() -> object:
        with patch.object(step, "MAX_PLACES", 0):
            return step.loss_and_slope(row, row, counts)

    yield "ATen", not few, aten


def merge_ways(n: int, device: str, items: int = 16_384) -> Iterator[Way]:
    """A forward sweep over few items, whose parts of each row are merged so many at a time."""
    dtype = torch.float16
    hidden = torch.randn(n, 256, device=device, dtype=dtype) / 16
    table = torch.randn(items, 256, device=device, dtype=dtype)
    action = torch.randint(items, (n,), device=device)
    problem = Problem(hidden, table, action, None, None, 1.0)
    for merged in MERGED:

        def run(merged: int = merged) -> object:
            with patch.object(kernel, "MERGED_PARTS", merged):
                return kernel.forward(problem, True)

        yield f"{merged} parts at a time", merged == shapes.MERGED_PARTS, run


DECISIONS: dict[str, tuple[tuple[int, ...], Callable[[int, str], Iterator[Way]]]] = {
    "select": (SELECTED, select_ways),
    "order": (ORDERED, order_ways),
    "loss": (PLACES, loss_ways),
    "merge": (ORDERED[:2], merge_ways),
}


def lines(name: str, device: str) -> Iterator[str]:
    """One decision in Markdown, a row a size, each as soon as it is measured."""
    sizes, ways = DECISIONS[name]
    header: list[str] = []
    for n in sizes:
        found: dict[str, str] = {}
        for way, today, run in ways(n, device):
            run()  # compiles
            time = 1e6 * statistics.median(device_seconds(run, 0.1))
            found[way] = f"**{time:.1f}**" if today else f"{time:.1f}"
        if not header:
            header = list(found)
            yield f"| {name}: N | " + " | ".join(header) + " |"
            yield "|---" * (len(header) + 1) + "|"
        yield f"| {n:,} | " + " | ".join(found.get(way, "") for way in header) + " |"


def main() -> None:
    """Prints a table a decision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(DECISIONS), choices=list(DECISIONS))
    say = partial(print, flush=True)
    for name in parser.parse_args().only:
        for line in lines(name, "cuda"):
            say(line)
        say()


if __name__ == "__main__":
    main()
