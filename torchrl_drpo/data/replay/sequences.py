"""A log by whole sequences: one history for many rows, and how much of it each row had seen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import Storage

from .positions import row_positions
from .storage import LogStorage

#: Rows whose pieces are found together: a log may be larger than memory.
_ROWS_AT_A_TIME = 1 << 20


class SequenceStorage(Storage):
    """Pieces of users' sequences: every row of a part in one of them, none in two.

    A row's history is a beginning of its piece's: the first ``seen`` items of it. It ends before
    the row's own instant and slate, as the log's histories do, so rows of one instant have seen as
    much as each other, and an encoder that is causal from item to item gives every row its state
    in one pass.

    A piece holds the rows of one user whose histories are at most ``L`` items long: all of these
    are whole. Where a user did more than ``L`` things, further pieces follow, each of the rows
    that saw up to ``L / 2`` more: these rows see the latest ``L / 2`` to ``L`` items, while rows
    that are read one by one always see ``L``.

    Args:
        rows: the storage of the part, with histories.

    Attributes:
        offsets: first row of each piece, and the number of rows, int64 ``[P + 1]``.

    Raises:
        ValueError: for a log whose rows do not follow each other: no users, or histories of the
            rows' own.
    """

    def __init__(self, rows: LogStorage) -> None:
        histories = rows.histories
        if histories is None or histories.offsets is None:
            raise ValueError(
                "this log has no users with sequences (no user and time, or rows with histories of "
                "their own), so its rows cannot be read a sequence at a time; read them one by one"
            )
        self.rows, self._histories, self._length = rows, histories, rows.history_length
        every = (rows.global_rows(some) for some in torch.arange(len(rows)).split(_ROWS_AT_A_TIME))
        known = ((histories.segments(some)[0], histories.count(some)) for some in every)
        self.offsets = _pieces(known, self._length)
        super().__init__(max_size=len(self.offsets) - 1)

    def __len__(self) -> int:
        return self.max_size

    @property
    def shape(self) -> torch.Size:
        """``[P]``, the pieces."""
        return torch.Size([len(self)])

    def get(self, index: Any) -> TensorDictBase:
        """Pieces by integer, slice, sequence or index tensor ``[B]``.

        Returns:
            Batch size ``[B]``; the columns of rows are ``[B, R, ...]``, True in ``("collector",
            "mask")`` ``[B, R]`` where there is one (elsewhere the last one stands again);
            ``("observation", "history")`` is ``[B, H]``, left-padded with -1, ``H`` the longest of
            these, as are its columns; ``("observation", "seen")`` ``[B, R]`` says how many of its
            items, from the oldest, each row had seen.
        """
        piece = row_positions(index, len(self)).reshape(-1)
        first = torch.index_select(self.offsets, 0, piece)
        last = torch.index_select(self.offsets, 0, piece + 1) - 1
        step = torch.arange(int((last - first).amax()) + 1 if len(piece) else 0)
        place = first.unsqueeze(1) + step
        mask = place <= last.unsqueeze(1)
        place = torch.minimum(place, last.unsqueeze(1))
        out = TensorDict({}, place.shape[:1])
        for key, values in self.rows.without_histories(place.reshape(-1)).items(True, True):
            out.set(key, values.view(*place.shape, *values.shape[1:]))
        anchor = self.rows.global_rows(last)
        whole = self._histories.count(anchor)
        shown = whole.clamp_max(self._length)
        longest = max(1, int(shown.amax())) if len(piece) else 1
        missing = (whole - shown).unsqueeze(1)
        each = self._histories.count(self.rows.global_rows(place.reshape(-1))).view(place.shape)
        self.rows.set_histories(out, anchor, longest)
        out.set(("observation", "seen"), each - missing)
        return out.set(("collector", "mask"), mask)

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuses: a converted log does not change."""
        self.rows.set(cursor, data)

    def _empty(self) -> None:
        self.rows._empty()

    def state_dict(self) -> dict[str, Any]:
        """What identifies the log and its pieces: a checkpoint holds no rows."""
        return {**self.rows.state_dict(), "pieces": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that a checkpoint was made with this log; raises ``ValueError`` otherwise."""
        pieces = state_dict.get("pieces")
        self.rows.load_state_dict({k: v for k, v in state_dict.items() if k != "pieces"})
        if pieces != len(self):
            raise ValueError(
                f"the checkpoint was made with {pieces} sequences, these are {len(self)}; open the "
                "log with the history that it was made with"
            )

    def dumps(self, path: Path | str) -> None:
        """Writes the log's identity."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "sequences.json").write_text(json.dumps(self.state_dict()))

    def loads(self, path: Path | str) -> None:
        """Checks what :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / "sequences.json").read_text()))


def together(sample: TensorDictBase) -> TensorDictBase:
    """The sample as it is: the storage has put its pieces together."""
    return sample


def _pieces(blocks: Iterable[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """First rows of the pieces of rows in order, and their number, int64 ``[P + 1]``.

    Args:
        blocks: of rows: whose each is, ascending, ``[n]``, and how long its whole history is,
            ascending for each of them, ``[n]``.
        length: longest history of a piece.

    >>> _pieces([(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 2, 3, 9]))], 2)
    tensor([0, 2, 3, 4])
    """
    stride, rows, begin = max(1, length // 2), 0, 0
    before = (-1, -1)  # the last row's segment, and which of its pieces it was in
    found = []
    for segment, count in blocks:
        piece = (count - length + stride - 1).div(stride, rounding_mode="floor").clamp_min(0)
        fresh = torch.ones(len(segment), dtype=torch.bool)
        fresh[1:] = (segment[1:] != segment[:-1]) | (piece[1:] != piece[:-1])
        fresh[0] = (int(segment[0]), int(piece[0])) != before
        every = torch.arange(rows, rows + len(segment))
        begins = torch.where(fresh, every, begin).cummax(0).values
        # Rows that enter no history, or share an instant, may be many more than the items.
        found.append(every[(every - begins) % (length + 1) == 0])
        before = (int(segment[-1]), int(piece[-1]))
        rows, begin = rows + len(segment), int(begins[-1])
    return torch.cat([*found, torch.tensor([rows])])
