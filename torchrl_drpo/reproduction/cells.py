"""Cells: what has been computed is read, never computed again; the rest is computed and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchrl_drpo.reproduction.records import Record, check_names, read_record
from torchrl_drpo.reproduction.target import Cell
from torchrl_drpo.reproduction.workers import Progress, compute


class CellError(RuntimeError):
    """Cells that failed; the others have finished and are kept.

    Attributes:
        failures: by ``target/name``, what happened.
    """

    def __init__(self, failures: Mapping[str, str], cells: int, folder: Path) -> None:
        self.failures = dict(failures)
        listed = "; ".join(f"{name}: {what}" for name, what in failures.items())
        super().__init__(
            f"{len(failures)} of {cells} cells failed, the others are kept in {folder}; "
            f"give the same command again to go on. {listed}"
        )


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 2,
    progress: Progress = lambda cell, state, seconds: None,
) -> dict[str, dict[str, Record]]:
    """Computes the cells that are not in ``folder`` yet, and returns the results of all.

    Args:
        cells: what to compute; names are unique within a target.
        folder: holds ``<target>/<name>.json``, one a cell, written in one step; beside it
            ``<name>.error.txt`` after a failure.
        workers: processes, with one thread each where there is more than one.
        progress: called as cells go.

    Returns:
        By target and name: the record with ``result``, ``seconds`` and ``settings``.

    Raises:
        ValueError: for a name that cannot name a file, or that two cells share.
        OSError: if ``folder`` cannot be made, or a record not be written (a full disk, say): at
            once, for no further one could be. Those that are kept stay.
        CellError: if a cell failed, after all others have ended.
    """
    records, missing = read_cells(cells, folder)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)  # to find out now, not after the first cell
    waiting = {id(cell) for cell in missing}
    for cell in cells:
        if id(cell) not in waiting:
            progress(cell, "read", records[cell.target][cell.name]["seconds"])
    failures = {}
    with contextlib.closing(compute(missing, folder, workers, progress)) as outcomes:
        for cell, outcome in outcomes:
            if isinstance(outcome, OSError):
                raise outcome
            if isinstance(outcome, str):
                failures[f"{cell.target}/{cell.name}"] = outcome
                progress(cell, "failed", 0.0)
            else:
                records[cell.target][cell.name] = outcome
                progress(cell, "computed", outcome["seconds"])
    if failures:
        raise CellError(failures, len(cells), folder)
    return records


def read_cells(
    cells: Sequence[Cell], folder: Path
) -> tuple[dict[str, dict[str, Record]], list[Cell]]:
    """What :func:`run_cells` left in ``folder``, and the cells that it lacks.

    A record of other settings, of another version, or that is no record, counts as absent.
    """
    check_names(cells)
    records: dict[str, dict[str, Record]] = {cell.target: {} for cell in cells}
    missing = []
    for cell in cells:
        record = read_record(cell, folder)
        if record is None:
            missing.append(cell)
        else:
            records[cell.target][cell.name] = record
    return records, missing
