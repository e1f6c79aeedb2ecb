"""Which rows an op works on: ``index`` and ``n_rows`` as a selection gives them.

Place j of the output stands for row ``index[j]`` of the inputs (row j without an index), for j
below ``n_rows`` (all places without it). The places behind hold zeros and their rows cost
nothing. Output shapes depend on the length of ``index`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import check_tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32)


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_rows(index: Tensor | None, n_rows: Tensor | None, like: Tensor) -> None:
    """Raises unless ``index`` is a vector of integers and ``n_rows`` one integer."""
    if index is not None:
        check_tensor("index", index, dtypes=INTEGERS, ndim=1, like=like)
        if index.shape[0] > like.shape[0]:
            raise ValueError(
                f"index must not be longer than the {like.shape[0]} rows, got {index.shape[0]}; "
                "its first n_rows places name distinct rows"
            )
    if n_rows is not None:
        check_tensor("n_rows", n_rows, dtypes=INTEGERS, ndim=(0, 1), like=like)
        if n_rows.numel() != 1:
            raise ValueError(f"n_rows must hold one integer, got shape {tuple(n_rows.shape)}")


def places(index: Tensor | None, like: Tensor) -> int:
    """Length of the outputs: that of ``index``, or the rows of ``like``."""
    return like.shape[0] if index is None else index.shape[0]


def count_on_host(n_rows: Tensor | None, length: int) -> int | None:
    """``n_rows`` within [0, length], or ``None`` where reading it would wait or is impossible.

    >>> count_on_host(torch.tensor([3]), 8), count_on_host(None, 8)
    (3, None)
    """
    if n_rows is None or not on_host(n_rows):
        return None
    return min(length, max(0, int(n_rows)))


def on_host(values: Tensor) -> bool:
    """Whether reading values waits for nothing and is possible: eager, on a CPU, not fake."""
    if type(values) is not Tensor or values.device.type != "cpu":
        return False
    under_functorch = torch._C._functorch.maybe_current_level() is not None
    return not (torch.compiler.is_compiling() or under_functorch)


def live_rows(index: Tensor | None, n_rows: Tensor | None, like: Tensor) -> Tensor | slice:
    """The rows to work on, for indexing dimension 0; reads ``n_rows`` on the host.

    Raises:
        IndexError: if ``index`` names, on a CPU, a row that does not exist.
    """
    live = places(index, like)
    if n_rows is not None:
        live = min(live, max(0, int(n_rows)))
    if index is None:
        return slice(0, live)
    rows = index[:live].long()
    if rows.device.type == "cpu":
        check_index(rows, like.shape[0])
    return rows


def check_index(index: Tensor, count: int) -> None:
    """Raises ``IndexError`` unless every entry names one of ``count`` rows; reads the values."""
    if index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= count:
        raise IndexError(
            f"index must lie in [0, {count}) but holds {low if low < 0 else high} "
            f"within its first {index.numel()} places"
        )


def check_actions(
    action: Tensor, size: int, *, rows: Tensor | slice | None = None, mask: Tensor | None = None
) -> None:
    """Raises ``ValueError`` naming the first id outside [0, size), its row and token.

    Args:
        action: ids, ``[n]`` or, for sequences, ``[n, T]``; the values are read on the host.
        size: number of items or codes.
        rows: which row each of the ``n`` is, for the message; in order if not a tensor.
        mask: bool of the shape of ``action``, ``True`` where an id counts.
    """
    wrong = (action < 0) | (action >= size)
    if mask is not None:
        wrong &= mask
    if not wrong.any():
        return
    place = wrong.nonzero()[0].tolist()
    row = int(rows[place[0]]) if isinstance(rows, Tensor) else place[0]
    token = f", token {place[1]}," if len(place) == 2 and action.shape[1] > 1 else ""
    raise ValueError(
        f"action must lie in [0, {size}) but row {row}{token} holds {int(action[tuple(place)])}; "
        "map raw ids to indices counted from 0 first, and leave padding to a mask"
    )


def padded(values: Tensor, length: int) -> Tensor:
    """``values`` followed by zeros along dimension 0; itself if it is long enough."""
    missing = length - values.shape[0]
    if missing == 0:
        return values
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])


def spread(values: Tensor, rows: Tensor | slice, like: Tensor) -> Tensor:
    """A tensor shaped as ``like``, of its dtype, with ``values`` in ``rows`` and zeros elsewhere.

    Rows are distinct by contract, so this writes instead of adding.
    """
    if isinstance(rows, slice):
        return padded(values.to(like.dtype), like.shape[0])
    out = torch.zeros_like(like, memory_format=torch.contiguous_format)
    return out.index_copy(0, rows, values.to(like.dtype))


def pull_back(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian products of a plain ATen function, for an op's second derivative.

    Args:
        function: called on detached copies of ``inputs``.
        inputs: tensors of which those of floating point are differentiated.
        cotangents: one for each output; ``None`` where an output was not used.

    Returns:
        One gradient for each input, ``None`` for inputs that the outputs do not depend on.
    """
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
        outputs = function(*leaves)
        used = [
            (out, cotangent)
            for out, cotangent in zip(outputs, cotangents, strict=True)
            if cotangent is not None and out.requires_grad
        ]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not used:
            return (None,) * len(leaves)
        found = iter(
            torch.autograd.grad(
                [out for out, _ in used],
                wanted,
                [cotangent for _, cotangent in used],
                allow_unused=True,
            )
        )
    return tuple(next(found) if leaf.requires_grad else None for leaf in leaves)
