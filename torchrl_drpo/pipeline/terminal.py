"""What the ``drpo`` commands show: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torchrl_drpo.pipeline.demo import METHODS, DemoConfig, DemoResult, run_demo
from torchrl_drpo.report.tables import Table


def demo(config: DemoConfig) -> None:
    """``drpo demo``."""
    with progress_bars() as progress:
        result = run_demo(config, progress=progress)
    if config.json:
        print_json(result.to_json())
        return
    show(demo_table(result))
    out = result.config.out
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


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr: the yielded function takes a task's name, its step and its last step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    tasks: dict[str, Any] = {}
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def progress(name: str, step: int, steps: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=steps)
            bars.update(tasks[name], completed=step)

        yield progress


def show(table: Table) -> None:
    """Prints a table to stdout, as wide as it needs where stdout is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table.to_rich())


def say(message: str) -> None:
    """Prints one line to stdout."""
    print(message)  # noqa: T201


def print_json(data: Any) -> None:
    """Prints JSON data to stdout, for machines."""
    print(json.dumps(data, indent=1, allow_nan=False))  # noqa: T201
