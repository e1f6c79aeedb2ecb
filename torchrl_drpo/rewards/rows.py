"""What a reward model reads of a log's rows: one number a row."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.precision import at_least_float32


def rewards_of(rows: TensorDictBase, key: NestedKey) -> Tensor:
    """What is predicted, ``[N]``, float32 or wider: clicks and counts may be logged as such."""
    return at_least_float32(column_of(rows, key, "rewards").detach())


def column_of(rows: TensorDictBase, key: NestedKey, what: str) -> Tensor:
    """An entry of one number a row, ``[N]``."""
    values = rows.get(key, None)
    if values is None:
        raise KeyError(
            f"no {what} at {key!r}; the rows have {sorted(map(str, rows.keys(True, True)))}"
        )
    if rows.ndim != 1 or values.shape not in (rows.shape, (*rows.shape, 1)):
        raise ValueError(
            f"expected rows of batch size [N] with one of {key!r} each, got batch size "
            f"{tuple(rows.shape)} and shape {tuple(values.shape)}"
        )
    return values.reshape(-1)
