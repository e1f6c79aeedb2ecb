"""Ragged sequences without padding at rest: windows are cut from flat columns when sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchrl.data import SampleUnit
from torchrl.data.replay_buffers import Storage

# Torch splits larger operations among threads. These are too short to gain by it, and on a machine
# whose cores are busy they would wait for the other thread: 32 ms a sample instead of 4.
_BLOCK = 1 << 15


def history_windows(
    items: Tensor,
    rows: Tensor,
    starts: Tensor,
    length: int,
    initial: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """The items of the rows before each row, within its segment, most recent last.

    Args:
        items: the flat item column, int ``[N]``.
        rows: int64 ``[B]`` in [0, N].
        starts: first row of each one's segment, int64 ``[B]``.
        length: window length L.
        initial: ``(values [M] int, begins [B], ends [B])``: what precedes each segment, as a range
            of ``values``.

    Returns:
        int64 ``[B, L]``, left-padded with -1.

    Examples:
        >>> items = torch.tensor([7, 8, 9, 5])
        >>> history_windows(items, torch.tensor([2, 3]), torch.tensor([0, 3]), 3)
        tensor([[-1,  7,  8],
                [-1, -1, -1]])
    """
    if len(rows) * length <= _BLOCK:
        return _windows(items, rows, starts, length, initial)
    out = torch.empty(len(rows), length, dtype=torch.int64)
    block = max(1, _BLOCK // length)
    for first in range(0, len(rows), block):
        part = slice(first, first + block)
        before = None if initial is None else (initial[0], initial[1][part], initial[2][part])
        out[part] = _windows(items, rows[part], starts[part], length, before)
    return out


def _windows(
    items: Tensor,
    rows: Tensor,
    starts: Tensor,
    length: int,
    initial: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    place = rows.unsqueeze(-1) - torch.arange(length, 0, -1)
    inside = place >= starts.unsqueeze(-1)
    out = torch.full(place.shape, -1)
    if len(items):
        found = torch.index_select(items, 0, place.clamp(0, len(items) - 1).view(-1))
        out = torch.where(inside, found.view(place.shape).long(), -1)
    if initial is not None:
        values, begins, ends = initial
        earlier = place + (ends - starts).unsqueeze(-1)
        known = ~inside & (earlier >= begins.unsqueeze(-1))
        out[known] = values[earlier[known]].long()
    return out


@dataclass(frozen=True)
class Histories:
    """Where the history of every row lies.

    A place counts the rows that enter histories: it is a row's number where all of them do.

    Args:
        items: items of the rows that enter, int ``[M]``: the flat item column ``[N]`` if all do.
        users: user number of each row, None where every row is a segment of its own.
        offsets: first row of each user, int64 ``[U]``, None likewise.
        values: items from before each segment, int32 ``[M]``, None where there are none.
        bounds: int64 ``[segments + 1]`` into ``values``.
        ends: the place at which each row's history ends, int64 ``[N]``; None where that is its
            own, for no two rows share an instant or a slate.
        before: places up to and including each row, int64 ``[N]``; None where all rows enter.
    """

    items: Tensor
    users: Tensor | None = None
    offsets: Tensor | None = None
    values: Tensor | None = None
    bounds: Tensor | None = None
    ends: Tensor | None = None
    before: Tensor | None = None

    def segments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's segment, and the segment's first row."""
        if self.users is None or self.offsets is None:
            return rows, rows
        segment = torch.index_select(self.users, 0, rows)
        return segment, torch.index_select(self.offsets, 0, segment)

    def count(self, rows: Tensor) -> Tensor:
        """How many items stand before each row, however long a window is, int64 ``[B]``."""
        segment, start = self.segments(rows)
        ends = self._places(rows) if self.ends is None else torch.index_select(self.ends, 0, rows)
        count = ends - self._places(start)
        if self.bounds is not None:
            begins = torch.index_select(self.bounds, 0, segment)
            count = count + torch.index_select(self.bounds, 0, segment + 1) - begins
        return count

    def window(self, rows: Tensor, length: int, *, after: bool = False) -> Tensor:
        """Histories int64 ``[B, length]`` before each row, or ``after``: the row's item behind it.

        A row that does not enter histories changes none, its own successor's neither.
        """
        segment, start = self.segments(rows)
        ends = self._places(rows) if self.ends is None else torch.index_select(self.ends, 0, rows)
        past = self._cut(ends, segment, start, length)
        if not after:
            return past
        places = self._places(rows + 1)
        enters = (places > self._places(rows)).unsqueeze(-1)
        own = torch.index_select(self.items, 0, (places - 1).clamp_min(0)).long()
        return torch.where(enters, torch.cat([past[:, 1:], own.unsqueeze(-1)], dim=1), past)

    def past_rows(self, rows: Tensor, length: int) -> Tensor:
        """The rows of each row's history, int64 ``[B, length]``, left-padded with -1.

        What stands in a history from before the log has no row and is -1, too.
        """
        _, start = self.segments(rows)
        ends = self._places(rows) if self.ends is None else torch.index_select(self.ends, 0, rows)
        return self._rows_before(ends, start, length)

    def latest_rows(self, users: Tensor, length: int) -> Tensor:
        """The same after each user's last row."""
        ends, start = self._last(users)
        return self._rows_before(self._places(ends), start, length)

    def latest(self, users: Tensor, length: int) -> Tensor:
        """Histories int64 ``[B, length]`` after each user's last row."""
        ends, start = self._last(users)
        return self._cut(self._places(ends), users, start, length)

    def _last(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """One behind each user's last row, and the first."""
        if self.offsets is None or self.users is None:
            raise ValueError("this log is stored as logged: its users have no sequences")
        ends = torch.cat([self.offsets[1:], self.offsets.new_tensor([len(self.users)])])
        return ends[users], self.offsets[users]

    def _rows_before(self, ends: Tensor, start: Tensor, length: int) -> Tensor:
        place = ends.unsqueeze(1) - torch.arange(length, 0, -1)
        inside = place >= self._places(start).unsqueeze(1)
        # The row at a place is the first that has so many up to and including it.
        row = place if self.before is None else torch.searchsorted(self.before, place + 1)
        return torch.where(inside, row, -1)

    def _places(self, rows: Tensor) -> Tensor:
        """How many rows before each of ``rows``, in [0, N], enter histories."""
        if self.before is None:
            return rows
        found = torch.index_select(self.before, 0, (rows - 1).clamp_min(0))
        return torch.where(rows > 0, found, 0)

    def _cut(self, places: Tensor, segment: Tensor, start: Tensor, length: int) -> Tensor:
        initial = None
        if self.values is not None and self.bounds is not None:
            begins = torch.index_select(self.bounds, 0, segment)
            initial = (self.values, begins, torch.index_select(self.bounds, 0, segment + 1))
        return history_windows(self.items, places, self._places(start), length, initial)


class WindowUnit(SampleUnit):
    """Expands every sampled row into the next rows of its trajectory, or its slate.

    Sampled batches become ``[B, length]``. Rows beyond the end repeat the last one and are False
    in ``("collector", "mask")``, TorchRL's key for padding, which its losses (and ours) obey.
    The cost depends on ``B * length`` alone, not on the log.

    Args:
        length: rows of a window, at least 1.
        by: ``"trajectory_id"`` or ``"slate"``.

    Examples:
        >>> from torchrl_drpo.data import RecReplayBuffer, LogSchema
        >>> import pandas as pd
        >>> log = pd.DataFrame(dict(u=[0, 0, 1], i=[3, 4, 3], t=[1, 2, 1], click=[0, 1, 1]))
        >>> schema = LogSchema(user="u", item="i", time="t", quality="click")
        >>> buffer = RecReplayBuffer.from_pandas(log, schema, sample_unit=WindowUnit(2))
        >>> buffer.sample(8)["collector", "mask"].shape
        torch.Size([8, 2])
    """

    def __init__(
        self, length: int, by: Literal["trajectory_id", "slate"] = "trajectory_id"
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if by not in ("trajectory_id", "slate"):
            raise ValueError(f"by must be 'trajectory_id' or 'slate', got {by!r}")
        self.length, self.by = length, by

    def expand(
        self, index: Tensor | tuple[Any, ...], info: dict[str, Any], storage: Storage
    ) -> tuple[Tensor, dict[str, Any]]:
        """See :class:`torchrl.data.SampleUnit`."""
        anchor = torch.as_tensor(index).long()
        step = torch.arange(self.length)
        window = (anchor.unsqueeze(-1) + step).clamp_max(len(storage) - 1)
        group = storage.column(self.by, window)
        mask = (group == group[:, :1]) & (anchor.unsqueeze(-1) + step < len(storage))
        window = anchor.unsqueeze(-1) + torch.minimum(step, mask.sum(-1, keepdim=True) - 1)
        spread = {
            key: value.unsqueeze(-1).expand(window.shape)
            if isinstance(value, Tensor) and value.shape == anchor.shape
            else value
            for key, value in info.items()
        }
        return window, {**spread, ("collector", "mask"): mask}
