"""Which rows an index means: what does not fit a log is refused, never taken for another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_END = 2**63


def row_positions(index: Any, rows: int) -> Tensor:
    """The rows that an index names, int64 in [0, ``rows``), of the index's shape.

    Args:
        index: an integer, slice, ``...``, range, (nested) sequence, array or tensor of integers;
            or a mask, boolean ``[rows]``.
        rows: how many there are.

    Raises:
        IndexError: on rows outside [-rows, rows), a mask of another shape, or what is no index.

    Examples:
        >>> row_positions([0, -1], 4), row_positions(np.array([True, False, True]), 3)
        (tensor([0, 3]), tensor([0, 2]))
        >>> row_positions(torch.tensor([True, False]), 3)
        Traceback (most recent call last):
        IndexError: a mask of shape [2] does not fit the 3 rows of this log; make it for these rows
    """
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    index = slice(None) if index is Ellipsis else index
    if isinstance(index, slice):
        return torch.arange(*index.indices(rows))
    found = _integers_or_mask(index)
    if found.dtype == torch.bool:
        if found.shape != (rows,):
            raise IndexError(
                f"a mask of shape {list(found.shape)} does not fit the {rows} rows of this log; "
                "make it for these rows"
            )
        return found.nonzero().squeeze(-1)
    low, high = found.aminmax() if found.numel() else (torch.zeros(()), torch.zeros(()))
    if low < -rows or high >= max(rows, 1):
        bad = int(low) if low < -rows else int(high)
        raise IndexError(f"row {bad} is outside the {rows} rows of this log")
    return torch.where(found < 0, found + rows, found)


def _integers_or_mask(index: Any) -> Tensor:
    """int64 or boolean, of the index's shape."""
    if isinstance(index, Tensor):
        if index.dtype == torch.uint8 or index.is_floating_point() or index.is_complex():
            raise _no_index(index.dtype)
        if index.dtype in (torch.int64, torch.bool):
            return index.cpu()
        index = index.cpu().numpy()
    try:
        array = np.asarray(index)
    except ValueError:  # a ragged sequence
        raise _no_index(type(index).__name__) from None
    if array.size == 0 and not isinstance(index, np.ndarray):  # numpy takes [] for floats
        array = array.astype(np.int64)
    if array.dtype.kind not in "biu" or array.dtype == np.uint8:
        raise _no_index(array.dtype if isinstance(index, np.ndarray) else type(index).__name__)
    if array.dtype.kind == "u" and array.size and array.max() >= _END:
        raise IndexError(f"row {array.max()} is outside this log")
    return torch.from_numpy(array if array.dtype.kind == "b" else array.astype(np.int64))


def _no_index(kind: Any) -> IndexError:
    # torch takes uint8 for a mask, numpy for integers
    hint = "; say .bool() or .long()" if "uint8" in str(kind) else ""
    return IndexError(f"rows are indexed by integers or a boolean mask, got {kind}{hint}")
