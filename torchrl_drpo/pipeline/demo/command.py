"""``drpo demo``: the table, the curves and the numbers of the demo's runs."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.files import write_json
from torchrl_drpo.pipeline.config.demo import DemoConfig
from torchrl_drpo.pipeline.demo.runs import METHODS, Cell, ends_of, run_cells
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.report.tables import Table


def command(config: DemoConfig) -> None:
    """``drpo demo``."""
    with progress_bars() as progress:
        result = run_demo(config, progress=progress)
    if config.json:
        print_json(result.to_json())
        return
    show(demo_table(result))
    out = result.config.output
    say(f"curves: {out / 'demo.png'}   numbers: {out / 'demo.json'}   ({result.seconds:.0f} s)")


def demo_table(result: DemoResult) -> Table:
    """The demo's one table: every method between the random policy and the oracle."""
    config = result.config
    ends = {name: sum(values) / len(values) for name, values in result.ends.items()}
    rows = [["random policy", f"{ends['random']:.3f}", f"{ends['random']:.3f}"]]
    for method in METHODS:
        row = [
            method,
            *(str(result.interval(method, m)) for m in ("retrieved_reward", "raw_reward")),
        ]
        if method != "BC":
            row.append(f"{result.gain(method, 'retrieved_reward').mean:+.3f}")
            half = result.gain(method, "retrieved_reward").half_width
            row[-1] += f" ± {half:.3f}" if half == half else ""
        rows.append(row)
    rows.append(["oracle", f"{ends['oracle']:.3f}", f"{ends['oracle']:.3f}"])
    seeds = f"{config.seeds} seeds, 95% t intervals" if config.seeds > 1 else "1 seed"
    return Table(
        f"Latent reward after {config.train.steps:,} steps on the {config.scenario} log of "
        f"{config.log_size:,} rows ({seeds})",
        ["policy", "retrieved item", "raw mean action", "retrieved, against BC"],
        rows,
        emphasis=[1 + list(METHODS).index("DRPO")],
        note=(
            "Reward of the item nearest to the policy's mean action, and of that action as if it "
            "were an item (it may lie closer to the user than the best item does), "
            f"on {config.users:,} new users; mean of the last fifth of training. "
            "The last column is paired by seed."
        ),
    )


@dataclass(frozen=True)
class DemoResult:
    """What ``drpo demo`` found.

    Attributes:
        config: what was run.
        cells: every method on every seed.
        ends: ``retrieved_reward`` of ``"random"`` and ``"oracle"``, a number for each seed.
        seconds: wall time.
    """

    config: DemoConfig
    cells: list[Cell]
    ends: dict[str, list[float]]
    seconds: float

    def per_seed(self, method: str, metric: str) -> list[float]:
        """A metric of a method, one number for each seed."""
        return [cell.metrics[metric] for cell in self.cells if cell.method == method]

    def interval(self, method: str, metric: str) -> Interval:
        """Mean and 95% interval over the seeds."""
        return mean_interval(self.per_seed(method, metric))

    def gain(self, method: str, metric: str, over: str = "BC") -> Interval:
        """Difference to another method, paired by seed."""
        pairs = zip(self.per_seed(method, metric), self.per_seed(over, metric), strict=True)
        return mean_interval([mine - other for mine, other in pairs])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data, with the machine it was measured on."""
        table = {
            method: {name: self.interval(method, name)._asdict() for name in self.cells[0].metrics}
            for method in METHODS
        }
        data = {
            "config": asdict(self.config),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "seconds": self.seconds,
            "ends": self.ends,
            "table": table,
            "cells": [asdict(cell) for cell in self.cells],
        }
        return _plain(data)


def run_demo(
    config: DemoConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> DemoResult:
    """Trains every method on every seed and writes ``demo.json`` and ``demo.png``.

    Args:
        config: what to run.
        progress: called with a cell's name, its step and its last step.

    Returns:
        The result.
    """
    from torchrl_drpo.report.demo import plot_demo

    config = config.resolved()
    start = time.perf_counter()
    ends = [ends_of(config, seed) for seed in range(config.seeds)]
    cells = run_cells(config, progress)
    result = DemoResult(
        config,
        cells,
        {"random": [e[0] for e in ends], "oracle": [e[1] for e in ends]},
        time.perf_counter() - start,
    )
    write_json(config.output / "demo.json", result.to_json())
    plot_demo(result, config.output / "demo.png")
    return result


def _plain(value: Any) -> Any:
    """JSON data: paths as text, tuples as lists, numbers that JSON does not know as ``None``."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
