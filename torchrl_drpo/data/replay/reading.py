"""What a buffer gives beside samples: blocks of rows, columns, returns, latest histories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ..conversion.quality import discounted_returns
from .log import OpenLog


class LogReading:
    """Reads whole logs; a part of :class:`~torchrl_drpo.RecReplayBuffer`, of which it is told."""

    _log: OpenLog
    part: str | None
    _options: dict[str, Any]
    _storage: Any

    def batches(self, batch_size: int) -> Iterator[TensorDictBase]:
        """All rows once, in storage order, ``batch_size`` at a time; the last may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def column(self, key: NestedKey) -> Tensor:
        """One stored column of all rows shown: ``"user"``, ``("observation", "features")``, ...

        The tensor is the caller's own: writing into it changes neither the log nor the buffer. Of
        a whole log it costs no copy until it is written to.
        """
        if self.part is not None:
            return self._storage.column(key)
        return self._log.store.column(key if isinstance(key, tuple) else (key,))

    @property
    def quality(self) -> Tensor:
        """The quality signal of all rows shown, float32 ``[n]``."""
        return self.column(("next", "reward")).reshape(len(self))

    def returns_to_go(self, gamma: float = 1.0) -> Tensor:
        """Discounted return of every row shown to the end of its trajectory (or of this part).

        Args:
            gamma: discount in [0, 1].

        Returns:
            float32 ``[n]``.
        """
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        last = self.column(("next", "done")).reshape(len(self)).clone()
        if "trajectory_id" in self._log.rows.keys():  # noqa: SIM118 (TensorDict)
            trajectory = self.column("trajectory_id")
            last[:-1] |= trajectory[1:] != trajectory[:-1]
        returns = discounted_returns(self.quality.numpy(), last.numpy(), gamma)
        return torch.from_numpy(returns).float()

    def latest_history(self, users: Any, length: int | None = None) -> Tensor:
        """Histories after each user's last logged row, to recommend from.

        Their columns are :meth:`latest_history_columns`.

        Args:
            users: raw user ids.
            length: items of the window; the buffer's own by default.

        Returns:
            int64 ``[B, length]``, as ``("observation", "history")``.

        Raises:
            KeyError: names a user whom the log does not know.
        """
        if self.users is None or self._log.histories is None:
            raise ValueError("this log has no users with sequences")
        number = self.users.encode(users).reshape(-1)
        return self._log.histories.latest(number, length or self._options["history"])

    def latest_history_columns(self, users: Any, length: int | None = None) -> dict[str, Tensor]:
        """The ``history_columns`` of :meth:`latest_history`, each ``[B, length]``, by their names.

        Args:
            users: raw user ids.
            length: items of the window; the buffer's own by default.
        """
        if not self._options["history_columns"]:
            return {}
        assert self.users is not None  # else no columns were promised
        number = self.users.encode(users).reshape(-1)
        length = length or self._options["history"]
        return self._storage.past_columns(self._log.histories.latest_rows(number, length))
