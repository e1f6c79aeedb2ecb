"""What the ``drpo`` commands show: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torchrl_drpo.report.tables import Table


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr: the yielded function takes a task's name, its step and its last step.

    Each with the time that it took and, while it goes on, what is left; none where stderr is no
    terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as TimeLeftColumn

    tasks: dict[str, Any] = {}
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeftColumn(compact=True),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

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


def note(message: str) -> None:
    """Prints one line to stderr: what is of interest beside the results."""
    print(message, file=sys.stderr)  # noqa: T201


def print_json(data: Any) -> None:
    """Prints JSON data to stdout, for machines."""
    print(json.dumps(data, indent=1, allow_nan=False))  # noqa: T201
