"""Runs cells in worker processes; what has been computed is read, never computed again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from torchrl_drpo.experiments.artifacts import write_json
from torchrl_drpo.experiments.reproduce.target import Cell

_NAME = re.compile(r"[A-Za-z0-9._-]+")
#: Called with a cell, how it went ("read", "started", "computed"), and its seconds.
Progress = Callable[[Cell, str, float], None]


class CellError(RuntimeError):
    """Cells that failed; the others have finished and are kept."""


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 2,
    progress: Progress = lambda cell, state, seconds: None,
) -> dict[str, dict[str, Any]]:
    """Computes the cells that are not in ``folder`` yet, and returns the results of all.

    Args:
        cells: what to compute; names are unique within a target.
        folder: holds ``<target>/<name>.json``, one a cell, written atomically.
        workers: processes, with one thread each where there is more than one.
        progress: called as cells go.

    Returns:
        By target and name: the record with ``result``, ``seconds`` and ``settings``.

    Raises:
        ValueError: for a name that cannot name a file, or that two cells share.
        CellError: if a cell failed, after all others have ended.
    """
    _check_names(cells)
    records: dict[str, dict[str, Any]] = {cell.target: {} for cell in cells}
    missing = []
    for cell in cells:
        record = _read(cell, folder)
        if record is None:
            missing.append(cell)
        else:
            records[cell.target][cell.name] = record
            progress(cell, "read", record["seconds"])
    failures = []
    for cell, outcome in _compute(missing, folder, workers, progress):
        if isinstance(outcome, BaseException):
            failures.append(f"{cell.target}/{cell.name}: {type(outcome).__name__}: {outcome}")
        else:
            records[cell.target][cell.name] = outcome
            progress(cell, "computed", outcome["seconds"])
    if failures:
        raise CellError(
            f"{len(failures)} of {len(cells)} cells failed, the others are kept in {folder}; "
            "give the same command again to go on. " + "; ".join(failures)
        )
    return records


def _compute(
    cells: Sequence[Cell], folder: Path, workers: int, progress: Progress
) -> Any:  # an iterator of (cell, record or exception)
    workers = min(workers, len(cells))
    if workers <= 1:
        for cell in cells:
            progress(cell, "started", 0.0)
            try:
                yield cell, _run(cell, folder, None)
            except Exception as error:
                yield cell, error
        return
    # Spawned: a fork of a process that holds OpenMP's threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {}
        queue = list(reversed(cells))
        while queue or waiting:
            while queue and len(waiting) < workers:
                cell = queue.pop()
                progress(cell, "started", 0.0)
                waiting[pool.submit(_run, cell, folder, 1)] = cell
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.exception() or future.result()


def _run(cell: Cell, folder: Path, threads: int | None) -> dict[str, Any]:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    started = time.perf_counter()
    result = cell.run(**cell.settings)
    record = {
        "fingerprint": _fingerprint(cell),
        "seconds": round(time.perf_counter() - started, 2),
        "settings": dict(cell.settings),
        "result": result,
    }
    write_json(_path(cell, folder), record)
    return record


def _read(cell: Cell, folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(_path(cell, folder).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):  # never ran, or not by this program
        return None
    known = isinstance(record, dict) and record.get("fingerprint") == _fingerprint(cell)
    return record if known else None


def _path(cell: Cell, folder: Path) -> Path:
    return folder / cell.target / f"{cell.name}.json"


def _fingerprint(cell: Cell) -> str:
    identity: Mapping[str, Any] = {
        "run": f"{cell.run.__module__}.{cell.run.__qualname__}",
        "settings": cell.settings,
        "version": cell.version,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _check_names(cells: Sequence[Cell]) -> None:
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        if not _NAME.fullmatch(cell.name):
            raise ValueError(
                f"a cell's name may hold letters, digits, '.', '_' and '-' only, got {cell.name!r}"
            )
        if (cell.target, cell.name) in seen:
            raise ValueError(f"two cells of target {cell.target!r} are called {cell.name!r}")
        seen.add((cell.target, cell.name))


def default_workers() -> int:
    """One process a core, at most eight."""
    return max(1, min(8, os.cpu_count() or 1))
