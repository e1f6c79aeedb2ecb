"""What ``drpo reproduce`` shows on stderr while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchrl_drpo.reproduction.target import Cell
from torchrl_drpo.reproduction.workers import Progress


@contextmanager
def cell_progress(cells: int) -> Iterator[Progress]:
    """A bar over all cells, a line for each that runs, and a lasting line for each that ended.

    Where stderr is no terminal, the lasting lines alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    running: dict[tuple[str, str], Any] = {}
    ended = {"read": 0, "computed": 0, "failed": 0}
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        total = bars.add_task("cells", total=cells)

        def progress(cell: Cell, state: str, seconds: float) -> None:
            name, key = f"{cell.target}/{cell.name}", (cell.target, cell.name)
            if state == "started":
                running[key] = bars.add_task(f"  {name}", total=1)
                return
            ended[state] += 1
            bars.update(total, completed=sum(ended.values()))
            if key in running:
                bars.remove_task(running.pop(key))
            if state != "read":
                how = f"{seconds:.1f} s" if state == "computed" else "failed"
                left = cells - sum(ended.values())
                console.print(f"{name}: {how}, {left} left", markup=False, soft_wrap=True)

        yield progress
    if ended["read"]:
        console.print(f"{ended['read']} of {cells} cells were there already")
