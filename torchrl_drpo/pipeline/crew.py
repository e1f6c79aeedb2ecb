"""``drpo train`` under ``torchrun``: rank 0 does and says everything, the others train along.

Rank 0 runs the command as one process would, and calls the others where it needs them: when the
log is converted, when a reward model is fitted, and for every run that has not finished before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from torchrl_drpo.distributed.ranks import world_size

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from torchrl_drpo.distributed.group import Ranks

#: A conversion or an evaluation of rank 0 may take long; a rank that dies is noticed at once.
_PATIENCE = timedelta(days=7)


class Crew:
    """All ranks of the process group, or this process alone."""

    def __init__(self) -> None:
        self._ranks: Ranks | None = None
        if world_size() > 1:
            from torchrl_drpo.distributed.group import Ranks

            self._ranks = Ranks(_world())

    @property
    def leads(self) -> bool:
        """Whether this process does everything: rank 0, or one alone."""
        return self._ranks is None or self._ranks.rank == 0

    def call(self, word: int = 0) -> None:
        """Rank 0's word to all others, an int64; nothing where there are none."""
        self._told(word)

    def hear(self) -> int:
        """Waits for rank 0's next word."""
        return self._told(0)

    def _told(self, word: int) -> int:
        if self._ranks is None:
            return word
        import torch

        try:
            return int(self._ranks.gather(torch.tensor(word, device=self._ranks.device))[0])
        except RuntimeError as error:
            if self.leads:
                raise
            raise ValueError(f"rank 0 has ended; why, it says itself ({error})") from None


def found_device(name: str) -> str:
    """The device of a name, where ``auto`` is CUDA where there is any, else the CPU.

    Raises:
        ValueError: for one that cannot be used here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        why = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({why}); try 'cpu'") from None
    return name


def team() -> ProcessGroup | None:
    """Who trains together: the whole process group; ``None`` for one process."""
    return _world() if world_size() > 1 else None


@contextmanager
def torchrun() -> Iterator[Crew]:
    """The crew that ``torchrun`` started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world_size() > 1:
        yield Crew()
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Crew()
    finally:
        distributed.destroy_process_group()


def _world() -> ProcessGroup:
    from torch import distributed

    assert distributed.group.WORLD is not None  # somebody asked for more than one rank
    return distributed.group.WORLD
