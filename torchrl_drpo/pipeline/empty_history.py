"""Rows of logs without users: each is of somebody who has done nothing yet."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torchrl.envs.transforms import Transform


class EmptyHistory(Transform):
    """Gives sampled rows the history of somebody who has done nothing yet."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The same rows; see :func:`empty_history`."""
        return empty_history(tensordict)


def empty_history(rows: TensorDictBase) -> TensorDictBase:
    """Rows with ``("observation", "history")`` of padding alone, ``[*B, 1]``."""
    return rows.set(("observation", "history"), torch.full((*rows.shape, 1), -1))
