"""What the ``drpo`` commands show: progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
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


class AllRuns:
    """A progress of single runs, which also tells how far all of them together are.

    Args:
        progress: told of each run as it is, and of all of them on a bar of its own where there are
            several.
        names: of the runs, as they are told; other tasks are told as they are.
        steps: of each run; one that ends earlier has done as many.
    """

    def __init__(
        self, progress: Callable[[str, int, int], None], names: Sequence[str], steps: int
    ) -> None:
        self._progress, self._steps = progress, steps
        self._done = dict.fromkeys(names, 0)
        self._tell()

    def __call__(self, name: str, step: int, steps: int) -> None:
        """Tells of one task."""
        self._progress(name, step, steps)
        if name in self._done:
            self._done[name] = self._steps if step >= steps else step
            self._tell()

    def _tell(self) -> None:
        if len(self._done) > 1:
            done, of = sum(self._done.values()), self._steps * len(self._done)
            self._progress("all runs, steps", done, of)


def show(table: Table) -> None:
    """Prints a table to stdout, as wide as it needs where stdout is not a terminal."""
    from rich.console import Console

    console, drawn = Console(), table.to_rich()
    if not console.is_terminal:
        console = Console(width=10_000)
        console.width = console.measure(drawn).maximum
    console.print(drawn)


def say(message: str) -> None:
    """Prints one line to stdout."""
    print(message)  # noqa: T201


def note(message: str) -> None:
    """Prints one line to stderr: what is of interest beside the results."""
    print(message, file=sys.stderr)  # noqa: T201


def print_json(data: Any) -> None:
    """Prints JSON data to stdout, for machines."""
    print(json.dumps(data, indent=1, allow_nan=False))  # noqa: T201
