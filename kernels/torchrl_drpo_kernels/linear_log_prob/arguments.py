"""What is looked at and made of the arguments of ``linear_log_prob`` before its op is called."""

from __future__ import annotations

from torch import Tensor

from torchrl_drpo_kernels._common import INTERPRETED, check_shape, check_tensor
from torchrl_drpo_kernels._common_rows import (
    FLOATS,
    INTEGERS,
    check_actions,
    check_index,
    count_on_host,
    on_host,
    places,
)
from torchrl_drpo_kernels.linear_log_prob import tiles

#: Rows and items are counted in int32, with room for one tile of each of a forward sweep's parts,
#: whose equal shares may end that far behind the last item; offsets are int64.
MAX_ITEMS = 2**31 - 2**18


def check(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
) -> None:
    """Everything that shapes, types and devices can tell; no value is looked at."""
    check_tensor("hidden", hidden, dtypes=FLOATS, ndim=2)
    check_tensor("items", items, dtypes=(hidden.dtype,), ndim=2, like=hidden)
    check_tensor("action", action, dtypes=INTEGERS, ndim=1, like=hidden)
    if not 0 < items.shape[0] <= MAX_ITEMS or hidden.shape[0] > MAX_ITEMS:
        raise ValueError(
            f"items must have between 1 and {MAX_ITEMS} rows, and hidden no more, got "
            f"{items.shape[0]} and {hidden.shape[0]}"
        )
    check_shape("items", items, (items.shape[0], hidden.shape[1]), "[V, D] of hidden's D")
    check_shape("action", action, (hidden.shape[0],), "one item a row of hidden")
    if bias is not None:
        check_tensor("bias", bias, dtypes=FLOATS, ndim=1, like=hidden)
        check_shape("bias", bias, (items.shape[0],), "one score an item")
    if not 0 < inverse_temperature < float("inf"):
        raise ValueError(
            f"inverse_temperature must be a finite number above 0, got {inverse_temperature}"
        )


def packed(
    hidden: Tensor, action: Tensor, n_rows: Tensor | None, index: Tensor | None, num_items: int
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Rows and actions to score, the device's count of them, and how many places were cut off.

    Where the host can read the count for nothing, dead rows are left behind and none is needed.
    """
    length = places(index, hidden)
    live = None if INTERPRETED else count_on_host(n_rows, length)
    if live is not None:
        n_rows = None
        if index is None:
            hidden, action = hidden[:live], action[:live]
        else:
            index = index[:live]
    if index is not None:
        if on_host(index):
            check_index(index, hidden.shape[0])
        hidden, action = hidden.index_select(0, index), action.index_select(0, index)
        if n_rows is None and on_host(index):  # the op can name places only
            check_actions(action, num_items, rows=index)
    return hidden, action, n_rows, 0 if live is None else length - live


def keeps_scores(hidden: Tensor, items: Tensor, n_rows: Tensor | None) -> bool:
    """Whether the forward keeps the scores: decided by sizes alone, so that shapes are static."""
    if hidden.device.type != "cpu" or INTERPRETED or n_rows is not None:
        return False
    return tiles.keeps_scores(hidden.shape[0], items.shape[0], hidden.dtype)
