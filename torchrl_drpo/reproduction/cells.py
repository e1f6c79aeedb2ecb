"""Runs cells in worker processes; what has been computed is read, never computed again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.reproduction.machine import facts
from torchrl_drpo.reproduction.target import Cell

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Called with a cell, how it went ("read", "started", "computed", "failed"), and its seconds.
Progress = Callable[[Cell, str, float], None]
_PATIENCE = 10.0  # seconds that an idle process has to end
#: What is kept of a cell: ``fingerprint``, ``seconds``, ``processor_seconds``, ``settings``,
#: ``result``, ``made``.
Record = dict[str, Any]


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
        folder: holds ``<target>/<name>.json``, one a cell, written atomically; beside it
            ``<name>.error.txt`` after a failure.
        workers: processes, with one thread each where there is more than one.
        progress: called as cells go.

    Returns:
        By target and name: the record with ``result``, ``seconds`` and ``settings``.

    Raises:
        ValueError: for a name that cannot name a file, or that two cells share.
        CellError: if a cell failed, after all others have ended.
    """
    records, missing = read_cells(cells, folder)
    waiting = {id(cell) for cell in missing}
    for cell in cells:
        if id(cell) not in waiting:
            progress(cell, "read", records[cell.target][cell.name]["seconds"])
    failures = {}
    with contextlib.closing(_compute(missing, folder, workers, progress)) as outcomes:
        for cell, outcome in outcomes:
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
    _check_names(cells)
    records: dict[str, dict[str, Record]] = {cell.target: {} for cell in cells}
    missing = []
    for cell in cells:
        record = _read(cell, folder)
        if record is None:
            missing.append(cell)
        else:
            records[cell.target][cell.name] = record
    return records, missing


def default_workers() -> int:
    """One process a core that this process may use, at most eight."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, cores))


def _compute(
    cells: Sequence[Cell], folder: Path, workers: int, progress: Progress
) -> Iterator[tuple[Cell, Record | str]]:
    """Yields each cell with its record, or with a line that says how it failed."""
    workers = min(workers, len(cells))
    if workers <= 1:
        for cell in cells:
            progress(cell, "started", 0.0)
            yield cell, _attempt(cell, folder)
        return
    pool: list[_Worker] = []
    queue = list(reversed(cells))
    try:
        while queue or pool:
            while queue and len(pool) < workers:
                pool.append(_Worker(folder))
                progress(queue[-1], "started", 0.0)
                pool[-1].start(queue.pop())
            for pipe in connection.wait([worker.pipe for worker in pool]):
                worker = next(one for one in pool if one.pipe is pipe)
                cell, outcome = worker.cell, worker.finish()
                if worker.alive and queue:
                    progress(queue[-1], "started", 0.0)
                    worker.start(queue.pop())
                else:
                    pool.remove(worker)
                    worker.retire()
                yield cell, outcome
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process that computes one cell after another; where it dies, one cell is lost.

    Not an executor of the standard library: there, one process that is killed (out of memory,
    say) takes the cells of all others with it.
    """

    def __init__(self, folder: Path) -> None:
        context = get_context("spawn")  # a fork of a process that holds OpenMP's threads can hang
        self.pipe, other_end = context.Pipe()
        self.alive = True
        self._process = context.Process(target=_serve, args=(other_end, folder))
        self._process.start()
        other_end.close()

    def start(self, cell: Cell) -> None:
        self.cell = cell
        with contextlib.suppress(BrokenPipeError):  # it died idle: finish() says so
            self.pipe.send(cell)

    def finish(self) -> Record | str:
        try:
            outcome: Record | str = self.pipe.recv()
            return outcome
        except (EOFError, OSError):  # OSError: it died while it sent
            self.alive = False
            self._process.join()
            return f"its process died with exit code {self._process.exitcode} (out of memory?)"

    def retire(self) -> None:
        """Ends an idle process by itself, so that it returns its semaphores to the system."""
        self.pipe.close()
        self._process.join(timeout=_PATIENCE)
        self._process.terminate()  # nothing happens where it has ended
        self._process.join()

    def stop(self) -> None:
        """Ends the process wherever it is."""
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: connection.Connection, folder: Path) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            pipe.send(_attempt(pipe.recv(), folder))


def _attempt(cell: Cell, folder: Path) -> Record | str:
    trace = folder / cell.target / f"{cell.name}.error.txt"
    try:
        record = _run(cell)
        write_json(_path(cell, folder), record)
    except Exception as error:
        write_text(trace, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    trace.unlink(missing_ok=True)
    return record


def _run(cell: Cell) -> Record:
    started, used = time.perf_counter(), time.process_time()
    result = cell.run(**cell.settings)
    record = {
        "fingerprint": _fingerprint(cell),
        "seconds": round(time.perf_counter() - started, 2),
        # What it would take on a machine that does nothing else; the wall clock counts waiting.
        "processor_seconds": round(time.process_time() - used, 2),
        "settings": dict(cell.settings),
        "result": result,
        "made": facts(),
    }
    # A section sees the same data (lists, keys of text) whether a cell was computed or read.
    plain: Record = json.loads(json.dumps(record, allow_nan=False))
    return plain


def _read(cell: Cell, folder: Path) -> Record | None:
    try:
        record = json.loads(_path(cell, folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never ran, or not by this program
        return None
    known = isinstance(record, dict) and record.get("fingerprint") == _fingerprint(cell)
    return record if known and {"seconds", "result"} <= record.keys() else None


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
        for name in (cell.target, cell.name):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    "names of cells and targets start with a letter or digit and hold letters, "
                    f"digits, '.', '_' and '-' only, got {name!r}"
                )
        if (cell.target, cell.name) in seen:
            raise ValueError(f"two cells of target {cell.target!r} are called {cell.name!r}")
        seen.add((cell.target, cell.name))
