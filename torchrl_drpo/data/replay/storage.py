"""`LogStorage`: TorchRL's storage over a converted log; histories are cut when rows are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import TensorStorage

from .log import OpenLog
from .positions import row_positions

#: Columns of rows that their histories can show, by what they are asked for as.
_HISTORY_COLUMNS: dict[str, NestedKey] = {"time": "time", "feedback": ("next", "reward")}


class LogStorage(TensorStorage):
    """Read-only rows of a log, the whole log or a part of it.

    ``get`` with integers or index tensors (of any shape) gathers those rows alone and adds
    ``("observation", "history")``. ``get(slice(None))``, which TorchRL's slice samplers call to
    find trajectories, gives the mapped columns without histories and without a copy: their pages
    are this process's own, so writing there never reaches the files.

    Args:
        log: the opened log.
        part: name of the part that this storage shows; the whole log by default.
        history_length: length L of the history windows.
        next_observation: whether to add ``("next", "observation")``.
        history_columns: what else of the rows in a history is given, of ``"time"`` (as
            ``("observation", "history_time")``) and ``"feedback"`` (their quality, as
            ``("observation", "history_feedback")``); 0 where there is no row.

    Raises:
        KeyError: if the log has no such part.
        ValueError: for history columns that its histories do not have.
    """

    def __init__(
        self,
        log: OpenLog,
        *,
        part: str | None = None,
        history_length: int = 0,
        next_observation: bool = False,
        history_columns: Sequence[str] = (),
    ) -> None:
        super().__init__(log.rows)
        self.log, self.part_name = log, part
        self.history_columns = tuple(history_columns)
        self.history_length = history_length
        self.next_observation = next_observation
        self._attach()
        if self.history_columns:
            self._check_history_columns()
        if self.part is not None:
            self.max_size = len(self.part)
            self._len = len(self.part)

    def _attach(self) -> None:
        """Takes what lies in the log's files, here or in the process that this was sent to."""
        log, name = self.log, self.part_name
        self._storage = log.rows
        self._columns: dict[NestedKey, Tensor] = dict(log.rows.items(True, True))
        self.part = log.store.part(name) if name is not None else None
        if name is not None and self.part is None:
            raise KeyError(name)
        self.histories = log.histories if self.history_length > 0 else None
        self.stored_starts = log.starts if name is None else {}
        self.identity = f"{log.identity}/{name or ''}"

    @property
    def shape(self) -> torch.Size:
        """``[n]``, the rows shown."""
        return torch.Size([len(self)])

    def global_rows(self, index: Tensor) -> Tensor:
        """Rows of the whole log, for positions within this part."""
        return index if self.part is None else torch.index_select(self.part, 0, index)

    def column(self, key: NestedKey, index: Tensor | None = None) -> Tensor:
        """One column, of all rows shown or of those at ``index`` (any shape)."""
        values = self._columns[key]
        if index is None:
            return values if self.part is None else values[self.part]
        rows = self.global_rows(index.reshape(-1))
        return torch.index_select(values, 0, rows).view(*index.shape, *values.shape[1:])

    def get(self, index: Any) -> TensorDictBase:
        """Rows by integer, slice, sequence or index tensor; ``IndexError`` outside [-n, n)."""
        if isinstance(index, slice) and index == slice(None):
            return self._storage if self.part is None else self._storage[self.part]
        positions = row_positions(index, len(self))
        rows = self.global_rows(positions.reshape(-1))
        out = self._columns_at(rows)
        if self.histories is not None:
            self.set_histories(out, rows, self.history_length)
        if self.next_observation:
            self._set_next(out, rows)
        return out.reshape(positions.shape)

    def set_histories(self, out: TensorDictBase, rows: Tensor, length: int) -> None:
        """Adds the histories ``[B, length]`` of rows of the whole log, and their columns."""
        assert self.histories is not None  # somebody asked for a length
        out.set(("observation", "history"), self.histories.window(rows, length))
        if self.history_columns:
            past = self.histories.past_rows(rows, length)
            for name, values in self.past_columns(past).items():
                out.set(("observation", name), values)

    def past_columns(self, past: Tensor) -> dict[str, Tensor]:
        """The history columns of rows of the whole log, any shape, 0 where that is -1."""
        out, there = {}, past >= 0
        for name in self.history_columns:
            values = self._columns[_HISTORY_COLUMNS[name]]
            found = torch.index_select(values, 0, past.clamp_min(0).reshape(-1)).view(past.shape)
            out[f"history_{name}"] = torch.where(there, found, 0)
        return out

    def _check_history_columns(self) -> None:
        for name in self.history_columns:
            if name not in _HISTORY_COLUMNS:
                raise ValueError(f"history_columns are time and feedback, got {name!r}")
            if _HISTORY_COLUMNS[name] not in self._columns:
                raise ValueError(f"this log's rows have no {name}, nor have their histories")
        histories = self.histories
        if histories is None or histories.users is None:
            raise ValueError(
                "history_columns are those of a user's earlier rows, and these rows have none: the "
                "log needs a user and a time, no histories of its rows' own, and history above 0"
            )
        if histories.values is not None:
            raise ValueError(
                "what users did before the log has neither times nor feedback; leave "
                "history_columns or the schema's initial_history out"
            )
        if self.next_observation:
            raise ValueError("next_observation has no history_columns; leave one of them out")

    def without_histories(self, positions: Tensor) -> TensorDictBase:
        """The stored columns of rows, ``[B]``, positions within what is shown."""
        return self._columns_at(self.global_rows(positions))

    def _columns_at(self, rows: Tensor) -> TensorDictBase:
        out = TensorDict({}, rows.shape)
        for key, values in self._columns.items():
            out.set(key, torch.index_select(values, 0, rows))
        return out

    def _set_next(self, out: TensorDictBase, rows: Tensor) -> None:
        """The state after the action: the history with it, the next row's context and features.

        A row that ends its trajectory is followed by none: its own stand there.
        """
        if self.histories is not None:
            after = self.histories.window(rows, self.history_length, after=True)
            out.set(("next", "observation", "history"), after)
        done = out.get(("next", "done")).squeeze(-1)
        following = torch.where(done, rows, rows + 1).clamp_max(len(self._storage) - 1)
        for name in ("context", "features"):
            column = self._columns.get(("observation", name))
            if column is not None and ("next", "observation", name) not in self._columns:
                out.set(("next", "observation", name), torch.index_select(column, 0, following))

    def set(self, cursor: Any, data: Any, *, set_cursor: bool = True) -> None:
        """Refuses: a converted log does not change."""
        raise RuntimeError("a converted log is read-only; convert again to change it")

    def _empty(self) -> None:
        self.set(0, None)

    def state_dict(self) -> dict[str, Any]:
        """What identifies the log: a checkpoint holds no rows."""
        return {"identity": self.identity, "rows": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that a checkpoint was made with this log; raises ``ValueError`` otherwise."""
        if state_dict != self.state_dict():
            raise ValueError(
                f"the checkpoint was made with another log or part ({state_dict}), this one is "
                f"{self.state_dict()}; open the log that it was trained on"
            )

    def dumps(self, path: Path | str) -> None:
        """Writes the log's identity."""
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "log.json").write_text(json.dumps(self.state_dict()))

    def loads(self, path: Path | str) -> None:
        """Checks what :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / "log.json").read_text()))

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()  # the log goes by its place on disk, the rest is read there
        for name in ("_storage", "_columns", "part", "histories", "stored_starts"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._attach()
