"""A process group of several ranks in one process: what the others would send is made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from torchrl_drpo.distributed import ranks


@contextmanager
def group_of(size: int) -> Iterator[None]:
    """This process as rank 0 of ``size``, which has not been warned of anything yet."""
    told = set(ranks._told)
    ranks._told.clear()
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
        ranks._told.clear()
        ranks._told.update(told)
