"""A group of ranks, and the few collectives that the rest of this package is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.device_mesh import DeviceMesh

Over = DeviceMesh | ProcessGroup

#: torch 2.13's name for it, and the one before.
_reduce_scatter = getattr(
    distributed, "reduce_scatter_single", getattr(distributed, "reduce_scatter_tensor", None)
)


class Ranks:
    """The ranks of a process group, each of which must make the same calls in the same order.

    Args:
        over: a process group, or a device mesh, of which all ranks are meant.

    Attributes:
        group: the process group.
        rank: this process's place in it, from 0.
        size: how many ranks it has, R.
        device: where numbers that the host made must lie for a collective of this group.
        calls: how many collectives were called.
        payload: bytes handed to them by this rank (of a gather: times R, what comes back).

    Raises:
        TypeError: for anything else than a group or a mesh.
        ValueError: for a mesh of several dimensions that is not the whole world, or if this
            process has no place in it.
    """

    def __init__(self, over: Over) -> None:
        self.group = _group_of(over)
        self.rank = distributed.get_rank(self.group)
        self.size = distributed.get_world_size(self.group)
        if self.rank < 0:
            raise ValueError(f"this process is not a rank of the group {over}")
        on_host = "cpu:" in distributed.get_backend_config(self.group)
        self.device = torch.device("cpu" if on_host else torch.accelerator.current_accelerator())
        self.calls = self.payload = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """A group is not copied: the copy of a loss talks to the same ranks."""
        return self

    def __repr__(self) -> str:
        return f"Ranks(rank {self.rank} of {self.size})"

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        self._note(values)
        distributed.all_reduce(values, ReduceOp.SUM, group=self.group)
        return values

    def max(self, values: Tensor) -> Tensor:
        """The maximum over ranks, in place."""
        self._note(values)
        distributed.all_reduce(values, ReduceOp.MAX, group=self.group)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values of one shape, ``[R, ...]``."""
        out = values.new_empty((self.size, *values.shape))
        self._note(out)
        distributed.all_gather(list(out.unbind()), values.contiguous(), group=self.group)
        return out

    def counts(self, rows: int, like: Tensor) -> list[int]:
        """How many rows each rank has; read by the host."""
        own = torch.tensor(rows, dtype=torch.int64, device=like.device)
        return self.gather(own).tolist()

    def gather_rows(self, values: Tensor, counts: list[int]) -> Tensor:
        """The rows of all ranks one after the other, ``[sum(counts), ...]``."""
        padded = _padded(values, max(counts))
        every = self.gather(padded)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    def sum_rows(self, values: Tensor, counts: list[int]) -> Tensor:
        """The sum over ranks of rows of all ranks, of which this one gets its own."""
        most = max(counts)
        parts = torch.cat([_padded(part, most) for part in values.split(counts)])
        out = parts.new_empty((most, *values.shape[1:]))
        self._note(parts)
        _reduce_scatter(out, parts, group=self.group)
        return out[: counts[self.rank]]

    def exchange(self, values: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows to their ranks: ``sent[r]`` of these, in order, to rank r; back what others sent."""
        out = values.new_empty((sum(received), *values.shape[1:]))
        self._note(values)
        distributed.all_to_all_single(out, values.contiguous(), received, sent, group=self.group)
        return out

    def _note(self, values: Tensor) -> None:
        self.calls += 1
        self.payload += values.numel() * values.element_size()


def _padded(rows: Tensor, count: int) -> Tensor:
    """The rows with zeros behind them, ``count`` in all."""
    if len(rows) == count:
        return rows
    return torch.cat([rows, rows.new_zeros((count - len(rows), *rows.shape[1:]))])


def _group_of(over: Over) -> ProcessGroup:
    if isinstance(over, ProcessGroup):
        return over
    if not isinstance(over, DeviceMesh):
        raise TypeError(
            f"over must be a process group or a device mesh, got {type(over).__name__}; of all "
            "ranks: torch.distributed.group.WORLD, once the process group is initialised"
        )
    if over.ndim == 1:
        return over.get_group()
    world = distributed.group.WORLD
    if world is not None and over.size() == distributed.get_world_size():
        return world
    raise ValueError(
        f"over is a mesh of {over.ndim} dimensions {over.mesh_dim_names} and not the whole world; "
        "name one of its dimensions, mesh['data'], or pass a process group"
    )
