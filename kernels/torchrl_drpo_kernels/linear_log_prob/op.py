"""Registration of ``drpo::linear_log_prob``: which implementation runs, and its gradients.

    d h[i] = 1/T * (g[i] * E[a[i]] - (g[i] - g_lse[i]) * mean[i])        elementwise
    d E    = 1/T * sum_i (g[i] * onehot(a[i]) - (g[i] - g_lse[i]) * p[i]) h[i]'    second sweep

with g, g_lse the gradients of log_prob and lse. Second derivatives go through reference.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _common
from . import reference, tiles

#: Check action ids on accelerators too. The check waits for the device, so it is off; on the CPU
#: it always runs.
CHECK_ACTIONS_ON_ACCELERATOR = False


def linear_log_prob(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None = None,
    bias: Tensor | None = None,
    inverse_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Log-probability of one catalogue item a row, without the ``[N, V]`` logits.

    .. math:: \log p_i = z_{i,a_i} - \log\sum_j e^{z_{ij}}, \quad z_{ij} = (h_i \cdot E_j + b_j) / T

    Rows ``n_rows`` and beyond are dead: they cost nothing, may hold anything, and get zeros.
    Differentiable in ``hidden``, ``items`` and ``bias``, twice where asked for.

    Args:
        hidden: policy outputs, float16, bfloat16, float32 or float64, shape ``[N, D]``.
        items: item embeddings of the same type, shape ``[V, D]``.
        action: item of each row, int32 or int64 in ``[0, V)``, shape ``[N]``.
        n_rows: number of live rows: one integer on the device, never read back from an
            accelerator. ``None`` means all.
        bias: added to each item's score before the temperature, shape ``[V]``; ``-inf``
            excludes an item.
        inverse_temperature: ``1 / T``, above 0.

    Returns:
        ``log_prob`` and ``lse`` (the log-normaliser), in nats, shape ``[N]`` each; float32, or
        float64 for float64.

    Raises:
        TypeError: another type.
        ValueError: shapes or devices that do not fit, or an action outside the catalogue (on
            accelerators only with ``CHECK_ACTIONS_ON_ACCELERATOR``).

    >>> hidden, items = torch.zeros(3, 8, requires_grad=True), torch.randn(4, 8)
    >>> log_prob, lse = linear_log_prob(hidden, items, torch.tensor([0, 1, 3]))
    >>> log_prob.exp()
    tensor([0.2500, 0.2500, 0.2500], grad_fn=<ExpBackward0>)
    """
    _check(hidden, items, action, n_rows, bias, inverse_temperature)
    need_mean = torch.is_grad_enabled() and hidden.requires_grad
    log_prob, lse, _ = _linear_log_prob(
        hidden, items, action, n_rows, bias, float(inverse_temperature), need_mean
    )
    return log_prob, lse


_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INTEGERS = (torch.int64, torch.int32)


def _check(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
) -> None:
    """Everything that shapes, types and devices can tell; no value is looked at."""
    _common.check_tensor("hidden", hidden, dtypes=_FLOATS, ndim=2)
    _common.check_tensor("items", items, dtypes=(hidden.dtype,), ndim=2, like=hidden)
    _common.check_tensor("action", action, dtypes=_INTEGERS, ndim=1, like=hidden)
    if items.shape[0] == 0 or items.shape[0] > _common.MAX_ROWS:
        raise ValueError(f"items must have between 1 and 2^31 - 1 rows, got {items.shape[0]}")
    _common.check_shape("items", items, (items.shape[0], hidden.shape[1]), "[V, D] of hidden's D")
    _common.check_shape("action", action, (hidden.shape[0],), "one item a row of hidden")
    if n_rows is not None:
        _common.check_tensor("n_rows", n_rows, dtypes=_INTEGERS, ndim=(0, 1), like=hidden)
        if n_rows.numel() != 1:
            raise ValueError(f"n_rows must hold one integer, got shape {tuple(n_rows.shape)}")
    if bias is not None:
        _common.check_tensor("bias", bias, dtypes=_FLOATS, ndim=1, like=hidden)
        _common.check_shape("bias", bias, (items.shape[0],), "one score an item")
    if not 0 < inverse_temperature < float("inf"):
        raise ValueError(
            f"inverse_temperature must be a finite number above 0, got {inverse_temperature}"
        )


@torch.library.custom_op("drpo::linear_log_prob", mutates_args=())
def _linear_log_prob(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``log_prob [N]``, ``lse [N]``, ``mean [N, D]`` (``[0, D]`` unless needed)."""
    rows, live = _live_rows(hidden, n_rows)
    _check_actions(action[:rows], items.shape[0], live)
    h, a = _living(hidden, action, rows, live)
    log_prob, lse, mean = tiles.forward(h, items, a, bias, inverse_temperature, need_mean)
    if live is not None:
        log_prob, lse = torch.where(live, log_prob, 0), torch.where(live, lse, 0)
        mean = torch.where(live[:, None], mean, 0) if need_mean else mean
    rows_needed = hidden.shape[0] if need_mean else 0
    return (
        _padded(log_prob, hidden.shape[0]),
        _padded(lse, hidden.shape[0]),
        _padded(mean, rows_needed),
    )


@_linear_log_prob.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = reference.accumulation_dtype(hidden.dtype)
    n, d = hidden.shape
    row = hidden.new_empty(n, dtype=dtype)
    mean = hidden.new_empty((n if need_mean else 0, d), dtype=dtype)
    return row, torch.empty_like(row), mean


@torch.library.custom_op("drpo::linear_log_prob_backward", mutates_args=())
def _linear_log_prob_backward(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    mean: Tensor,
    grad_log_prob: Tensor,
    grad_lse: Tensor,
    need_hidden: bool,
    need_items: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of hidden, items and bias, each empty (no rows) unless needed."""
    rows, live = _live_rows(hidden, n_rows)
    h, a = _living(hidden, action, rows, live)
    logged = grad_log_prob[:rows] * inverse_temperature
    soft = grad_lse[:rows] * inverse_temperature - logged
    if live is not None:
        logged, soft = torch.where(live, logged, 0), torch.where(live, soft, 0)
    d_hidden, d_items = hidden.new_empty(0, hidden.shape[1]), items.new_empty(0, items.shape[1])
    d_bias = items.new_empty(0) if bias is None else bias.new_empty(0)
    if need_hidden:
        toward = items[a.long()].to(lse.dtype).mul_(logged[:, None])
        toward.addcmul_(mean[:rows], soft[:, None])
        d_hidden = _padded(toward.to(hidden.dtype), hidden.shape[0])
    if need_items or need_bias:
        d_items, d_bias = tiles.backward_items(
            h, items, a, bias, inverse_temperature, lse[:rows], soft, logged, need_bias
        )
    return d_hidden, d_items, d_bias


@_linear_log_prob_backward.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    mean: Tensor,
    grad_log_prob: Tensor,
    grad_lse: Tensor,
    need_hidden: bool,
    need_items: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    d_hidden = hidden.new_empty((hidden.shape[0] if need_hidden else 0, hidden.shape[1]))
    d_items = items.new_empty((items.shape[0] if need_items or need_bias else 0, items.shape[1]))
    like = items if bias is None else bias
    return d_hidden, d_items, like.new_empty(items.shape[0] if need_bias else 0)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, items, action, n_rows, bias, ctx.inverse_temperature, _ = inputs
    _, lse, mean = output
    ctx.mark_non_differentiable(mean)
    ctx.save_for_backward(hidden, items, action, n_rows, bias, lse, mean)


def _backward(ctx: Any, grad_log_prob: Tensor, grad_lse: Tensor, _: Tensor) -> tuple[Any, ...]:
    hidden, items, action, n_rows, bias, lse, mean = ctx.saved_tensors
    need = ctx.needs_input_grad
    need_hidden, need_items, need_bias = need[0], need[1], bias is not None and need[4]
    if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this again
        outputs = reference.linear_log_prob(
            hidden, items, action, n_rows, bias, ctx.inverse_temperature
        )[:2]
        wanted = [
            x for x, n in ((hidden, need_hidden), (items, need_items), (bias, need_bias)) if n
        ]
        grads = iter(
            torch.autograd.grad(outputs, wanted, (grad_log_prob, grad_lse), create_graph=True)
        )
        d_hidden, d_items, d_bias = (
            next(grads) if needed else None for needed in (need_hidden, need_items, need_bias)
        )
    else:
        found = _linear_log_prob_backward(
            hidden,
            items,
            action,
            n_rows,
            bias,
            ctx.inverse_temperature,
            lse,
            mean,
            grad_log_prob,
            grad_lse,
            need_hidden,
            need_items,
            need_bias,
        )
        d_hidden, d_items, d_bias = (
            grad if needed else None
            for grad, needed in zip(found, (need_hidden, need_items, need_bias), strict=True)
        )
    return d_hidden, d_items, None, None, d_bias, None, None


_linear_log_prob.register_autograd(_backward, setup_context=_save_for_backward)


def _live_rows(hidden: Tensor, n_rows: Tensor | None) -> tuple[int, Tensor | None]:
    """How many leading rows to work on, and a mask where that cannot be known on the host."""
    n = hidden.shape[0]
    if n_rows is None:
        return n, None
    if n_rows.device.type == "cpu":
        return max(0, min(int(n_rows), n)), None
    return n, torch.arange(n, device=hidden.device) < n_rows.reshape(())


def _living(
    hidden: Tensor, action: Tensor, rows: int, live: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The live rows, or all with the dead ones neutralised."""
    if live is None:
        return hidden[:rows], action[:rows]
    return torch.where(live[:, None], hidden, 0), torch.where(live, action, 0)


def _padded(values: Tensor, rows: int) -> Tensor:
    """``values`` with zero rows appended up to ``rows``."""
    if values.shape[0] == rows:
        return values
    out = values.new_zeros((rows, *values.shape[1:]))
    out[: values.shape[0]] = values
    return out


def _check_actions(action: Tensor, num_items: int, live: Tensor | None) -> None:
    if action.device.type != "cpu" and not CHECK_ACTIONS_ON_ACCELERATOR:
        return
    bad = (action < 0) | (action >= num_items)
    if live is not None:
        bad &= live
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"action must lie in [0, {num_items}) but row {row} holds {int(action[row])}; "
            "map raw ids to catalogue indices first"
        )
