"""Registration of ``drpo::linear_log_prob``: which implementation runs, and its gradients.

    d h[i] = 1/T * (g[i] * E[a[i]] - (g[i] - g_lse[i]) * mean[i])        elementwise
    d E    = 1/T * sum_i (g[i] * onehot(a[i]) - (g[i] - g_lse[i]) * p[i]) h[i]'    second sweep

with g, g_lse the gradients of log_prob and lse. Second derivatives go through reference.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common_rows import check_actions, check_rows
from torchrl_drpo_kernels.linear_log_prob import dispatch, reference
from torchrl_drpo_kernels.linear_log_prob.arguments import check, keeps_scores, packed
from torchrl_drpo_kernels.linear_log_prob.problem import Needed, Problem, empty_gradients

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
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Log-probability of one catalogue item a row, without the ``[N, V]`` logits.

    .. math:: \log p_i = z_{i,a_i} - \log\sum_j e^{z_{ij}}, \quad z_{ij} = (h_i \cdot E_j + b_j) / T

    Rows ``n_rows`` and beyond are dead: they cost nothing, may hold anything, and get zeros.
    Differentiable in ``hidden``, ``items`` and ``bias``, twice where asked for; works under
    ``torch.vmap`` (one call a member) and ``torch.compile``, not under ``torch.func.grad``.

    Args:
        hidden: policy outputs, float16, bfloat16, float32 or float64, shape ``[N, D]``.
        items: item embeddings of the same type, shape ``[V, D]``.
        action: item of each row, int32 or int64 in ``[0, V)``, shape ``[N]``.
        n_rows: number of live rows: one integer on the device, never read back from an
            accelerator. ``None`` means all.
        bias: added to each item's score before the temperature, shape ``[V]``; ``-inf``
            excludes an item.
        inverse_temperature: ``1 / T``, above 0.
        index: rows to evaluate, distinct integers in ``[0, N)``, shape ``[M]``, such as
            ``Selection.index``; they are made contiguous first. ``n_rows`` then counts places
            of ``index``, and the outputs have shape ``[M]``.

    Returns:
        ``log_prob`` and ``lse`` (the log-normaliser), in nats, shape ``[N]`` each; float32, or
        float64 for float64.

    Raises:
        TypeError: another type.
        ValueError: shapes or devices that do not fit, or an action outside the catalogue (on
            accelerators only with ``CHECK_ACTIONS_ON_ACCELERATOR``: without it such a row's
            ``log_prob`` is ``-inf``, and no item is taken for the logged one in its gradient).
        IndexError: if ``index`` leaves [0, N); looked at on a CPU only.

    >>> hidden, items = torch.zeros(3, 8, requires_grad=True), torch.randn(4, 8)
    >>> log_prob, lse = linear_log_prob(hidden, items, torch.tensor([0, 1, 3]))
    >>> log_prob.exp()
    tensor([0.2500, 0.2500, 0.2500], grad_fn=<ExpBackward0>)
    """
    check(hidden, items, action, bias, inverse_temperature)
    check_rows(index, n_rows, hidden)
    hidden, action, n_rows, dead = packed(hidden, action, n_rows, index, items.shape[0])
    grads = torch.is_grad_enabled()
    need_mean = grads and hidden.requires_grad
    need_scores = grads and (items.requires_grad or (bias is not None and bias.requires_grad))
    keep = need_scores and keeps_scores(hidden, items, n_rows)
    log_prob, lse, *_ = _linear_log_prob(
        hidden, items, action, n_rows, bias, float(inverse_temperature), need_mean, keep
    )
    if dead:
        pad = torch.nn.functional.pad
        return pad(log_prob, (0, dead)), pad(lse, (0, dead))
    return log_prob, lse


def check_ids(
    action: Tensor, num_items: int, n_rows: Tensor | None, rows: Tensor | None = None
) -> None:
    """Raises ``ValueError`` on a live action outside the catalogue, where looking is free or asked.

    ``rows`` says which row each action is of, for the message.
    """
    if action.device.type == "cpu" or CHECK_ACTIONS_ON_ACCELERATOR:
        live = slice(None) if n_rows is None else slice(max(0, int(n_rows)))
        check_actions(action[live], num_items, rows=rows)


@torch.library.custom_op("drpo::linear_log_prob", mutates_args=())
def _linear_log_prob(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (log_prob [N], lse [N], mean [N, D] or [0, D], scores [N, V] or [0, V])."""
    check_ids(action, items.shape[0], n_rows)
    problem = Problem(hidden, items, action, n_rows, bias, inverse_temperature)
    return dispatch.forward(problem, need_mean, keep)


@_linear_log_prob.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = reference.accumulation_dtype(hidden.dtype)
    n, d = hidden.shape
    row = hidden.new_empty(n, dtype=dtype)
    mean = hidden.new_empty((n if need_mean else 0, d), dtype=dtype)
    scores = hidden.new_empty((n if keep else 0, items.shape[0]), dtype=dtype)
    return row, torch.empty_like(row), mean, scores


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
    scores: Tensor,
    grad_log_prob: Tensor,
    grad_lse: Tensor | None,
    need_hidden: bool,
    need_items: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of hidden, items and bias, each empty (no rows) unless needed."""
    problem = Problem(hidden, items, action, n_rows, bias, inverse_temperature)
    needed = Needed(need_hidden, need_items, need_bias)
    return dispatch.backward(problem, lse, mean, scores, grad_log_prob, grad_lse, needed)


@_linear_log_prob_backward.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_gradients(hidden, items, bias, Needed(*rest[-3:]))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, items, action, n_rows, bias, ctx.inverse_temperature, *_ = inputs
    _, lse, mean, scores = output
    ctx.mark_non_differentiable(mean, scores)
    ctx.set_materialize_grads(False)  # most losses use log_prob alone: no zeros for the others
    ctx.save_for_backward(hidden, items, action, n_rows, bias, lse, mean, scores)


def _backward(
    ctx: Any, grad_log_prob: Tensor | None, grad_lse: Tensor | None, *_: None
) -> tuple[Any, ...]:
    hidden, items, action, n_rows, bias, lse, mean, scores = ctx.saved_tensors
    if grad_log_prob is None:
        grad_log_prob = torch.zeros_like(lse)
    need = (*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[4])
    arguments = (hidden, items, action, n_rows, bias, ctx.inverse_temperature)
    grads: Any
    if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this again
        outputs = reference.linear_log_prob(*arguments)[:2]
        wanted = [x for x, needed in zip((hidden, items, bias), need, strict=True) if needed]
        sent = (grad_log_prob, torch.zeros_like(lse) if grad_lse is None else grad_lse)
        found = torch.autograd.grad(outputs, wanted, sent, create_graph=True)
        grads = [found[sum(need[:i])] if need[i] else None for i in range(3)]
    else:
        if need[0] and mean.shape[0] != hidden.shape[0]:  # under vmap nobody knew of the gradient
            mean = _linear_log_prob(*arguments, True)[2]
        found = _linear_log_prob_backward(
            *arguments, lse, mean, scores, grad_log_prob, grad_lse, *need
        )
        grads = [grad if needed else None for grad, needed in zip(found, need, strict=True)]
    return grads[0], grads[1], None, None, grads[2], None, None, None


_linear_log_prob.register_autograd(_backward, setup_context=_save_for_backward)


def _one_by_one(op: Any, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    """``torch.vmap``: every member of the batch has its own items, so each is a call."""
    results = []
    for member in range(info.batch_size):
        one = [
            x if dim is None else x.select(dim, member).contiguous()
            for x, dim in zip(arguments, in_dims, strict=True)
        ]
        results.append(op(*one))
    stacked = tuple(map(torch.stack, zip(*results, strict=True)))
    return stacked, (0,) * len(stacked)


for _op in (_linear_log_prob, _linear_log_prob_backward):
    _op.register_vmap(partial(_one_by_one, _op))
