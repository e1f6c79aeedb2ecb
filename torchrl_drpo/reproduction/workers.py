"""Processes that compute cells; where one dies, one cell is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing import connection, get_context
from pathlib import Path

from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.reproduction.records import Record, compute_record, record_path
from torchrl_drpo.reproduction.target import Cell

#: Called with a cell, how it went ("read", "started", "computed", "failed"), and its seconds.
Progress = Callable[[Cell, str, float], None]
#: A cell's record; a line that says how it failed; or why its record could not be kept, which
#: would be so of every further cell.
Outcome = Record | str | OSError
_PATIENCE = 10.0  # seconds that an idle process has to end


def default_workers() -> int:
    """One process a core that this process may use, at most eight."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(8, cores))


def compute(
    cells: Sequence[Cell], folder: Path, workers: int, progress: Progress
) -> Generator[tuple[Cell, Outcome], None, None]:
    """Computes cells and keeps their records in ``folder``; yields each with its outcome.

    Args:
        cells: what to compute.
        folder: see :func:`~torchrl_drpo.reproduction.cells.run_cells`.
        workers: processes; one computes here.
        progress: told when a cell is started.
    """
    workers = min(workers, len(cells))
    if workers <= 1:
        for cell in cells:
            progress(cell, "started", 0.0)
            yield cell, attempt(cell, folder)
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


def attempt(cell: Cell, folder: Path) -> Outcome:
    """Computes one cell and keeps its record, or the traceback of its failure."""
    path = record_path(cell, folder)
    trace = path.with_name(f"{cell.name}.error.txt")
    try:
        record = compute_record(cell)
    except Exception as error:
        with contextlib.suppress(OSError):  # the failure is told either way
            write_text(trace, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    try:
        write_json(path, record)
        trace.unlink(missing_ok=True)
    except OSError as error:
        # One argument: an OSError of three prints its number and its file in its own way.
        return OSError(
            f"cell {cell.target}/{cell.name} was computed, but its record could not be written to "
            f"{path} ({error.strerror or error}); what was there before is as it was. Make room, "
            "or choose another folder, and give the same command again: it goes on from the "
            "records that are kept"
        )
    return record


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

    def finish(self) -> Outcome:
        try:
            outcome: Outcome = self.pipe.recv()
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
            pipe.send(attempt(pipe.recv(), folder))
