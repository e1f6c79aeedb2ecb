"""Real processes for tests: ranks of a gloo group on one machine, forked in milliseconds.

One server process imports the package once a session and forks every rank. It never runs a
backward pass, after which autograd would refuse to run in its forks.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.distributed.gloo", "tests.objectives.cases"])
_runs = count()

#: Seconds after which ranks that wait for each other are given up.
PATIENCE = 120


def run_ranks(
    function: Callable[..., Any], size: int, folder: Path, *arguments: Any, lost: int | None = None
) -> list[Any]:
    """What ``function(rank, size, *arguments)`` returns on every rank, tensors and numbers.

    The rank ``lost`` is one that dies on its way; its result is ``None``.

    Raises:
        AssertionError: with the traceback of the first rank that failed.
    """
    place = folder / f"ranks{next(_runs)}"
    place.mkdir()
    processes = [
        _CONTEXT.Process(
            target=_rank, args=(function, rank, size, str(place), arguments, lost is not None)
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    waiting = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    failed = sorted(place.glob("*.error"))
    assert not failed, "\n".join(file.read_text() for file in failed)
    assert not waiting, f"ranks {waiting} were still waiting after {PATIENCE} s"
    return [
        None if rank == lost else torch.load(place / f"{rank}.pt", weights_only=True)
        for rank in range(size)
    ]


def _rank(
    function: Callable[..., Any],
    rank: int,
    size: int,
    folder: str,
    arguments: tuple[Any, ...],
    lossy: bool,
) -> None:
    torch.set_num_threads(1)
    place = Path(folder)
    try:
        store = dist.FileStore(str(place / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        torch.save(function(rank, size, *arguments), place / f"{rank}.pt")
        if not lossy:
            dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (place / f"{rank}.error").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise


def cut(rows: int, size: int, seed: int) -> list[slice]:
    """Rows shared out among ranks in order, unevenly; some ranks get none."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randint(0, rows + 1, (size - 1,), generator=generator).sort().values.tolist()
    ends = [0, *inner, rows]
    return [slice(low, high) for low, high in pairwise(ends)]
