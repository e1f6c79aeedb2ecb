"""Which implementation of ``linear_log_prob`` runs, and what is the same for all of them.

kernel.py      CUDA, items up to 256 wide: half precision, and float32 where TF32 is allowed.
products.py    CUDA, everything else but float64.
tiles.py       the CPU; float64, and AMD cards where kernel.py has no tile.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import HAS_TRITON, INTERPRETED, uses_triton
from torchrl_drpo_kernels._common_rows import padded, spread
from torchrl_drpo_kernels.linear_log_prob import reference, tiles
from torchrl_drpo_kernels.linear_log_prob.problem import Needed, Problem, Slopes, empty_gradients

if HAS_TRITON:
    from torchrl_drpo_kernels.linear_log_prob import kernel, kernel_backward, products, shapes


def forward(
    problem: Problem, need_mean: bool, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]``, ``mean [N, D]``, ``scores [N, V]``.

    The last two have no rows unless they are needed; scores are kept for all rows, on a CPU only.
    """
    n, v, _ = problem.shape
    dtype = reference.accumulation_dtype(problem.hidden.dtype)
    scores = problem.hidden.new_empty((n if keep else 0, v), dtype=dtype)
    if takes_kernel(problem.hidden):  # which knows the dead rows by itself
        return *kernel.forward(problem, need_mean), scores
    living, live = _living(problem)
    living, known = _known(living)
    if takes_products(problem.hidden):
        log_prob, lse, mean = products.forward(living, need_mean)
    else:
        log_prob, lse, mean = tiles.forward(living, need_mean, scores if keep else None)
    if known is not None:
        log_prob = torch.where(known, log_prob, -torch.inf)
    if live is not None:
        log_prob, lse = torch.where(live, log_prob, 0), torch.where(live, lse, 0)
        mean = torch.where(live[:, None], mean, 0) if need_mean else mean
    return padded(log_prob, n), padded(lse, n), padded(mean, n if need_mean else 0), scores


def backward(
    problem: Problem,
    lse: Tensor,
    mean: Tensor,
    scores: Tensor | None,
    grad_log_prob: Tensor,
    grad_lse: Tensor | None,
    needed: Needed,
    index: Tensor | None = None,
    like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, items and bias, each empty (no rows) unless needed.

    ``lse``, ``mean`` and ``scores`` are the forward's. With ``index`` the gradient of hidden is
    shaped as ``like`` and holds row i of ``hidden`` in row ``index[i]``, zeros elsewhere.
    """
    hidden, of_items = problem.hidden, needed.items or needed.bias
    slopes = _slopes(lse, grad_log_prob, grad_lse, problem.inverse_temperature)
    nothing = Needed(hidden=False, items=False, bias=False)
    d_hidden, d_items, d_bias = empty_gradients(hidden, problem.items, problem.bias, nothing)
    if takes_kernel(hidden):
        if needed.hidden:
            d_hidden = hidden.new_zeros(hidden.shape if like is None else like.shape)
            kernel_backward.hidden_gradient(problem, mean, slopes, d_hidden, index)
        if of_items:
            d_items, found_bias = kernel_backward.items_gradient(problem, slopes, needed.bias)
    else:
        problem, live = _living(problem)
        slopes = _living_slopes(slopes, problem.hidden.shape[0], live)
        problem, known = _known(problem)
        if known is not None:
            slopes = slopes._replace(logged=torch.where(known, slopes.logged, 0))
        if needed.hidden:
            rows = _hidden_gradient(problem, mean[: problem.hidden.shape[0]], slopes)
            if index is None or like is None:
                d_hidden = padded(rows, hidden.shape[0])
            else:
                d_hidden = _spread(rows, index, live, like)
        if of_items and takes_products(hidden):
            d_items, found_bias = products.items_gradient(problem, slopes, needed.bias)
        elif of_items:
            kept = scores if scores is not None and scores.shape[0] else None
            d_items, found_bias = tiles.items_gradient(problem, slopes, needed.bias, kept)
    return d_hidden, d_items, found_bias if needed.bias else d_bias


def _slopes(
    lse: Tensor, grad_log_prob: Tensor, grad_lse: Tensor | None, inverse_temperature: float
) -> Slopes:
    """What the rows send into their logits; each product is a launch, so none is by one.

    Kernels read them number by number, and the gradient of a plain sum is one number, expanded.
    """
    once = inverse_temperature == 1.0
    logged = grad_log_prob.contiguous() if once else (grad_log_prob * inverse_temperature)
    if grad_lse is None:
        return Slopes(lse, -logged, logged)
    soft = (grad_lse if once else grad_lse * inverse_temperature) - logged
    return Slopes(lse, soft.contiguous(), logged.contiguous())


def _hidden_gradient(problem: Problem, mean: Tensor, slopes: Slopes) -> Tensor:
    """``soft[i] mean[i] + logged[i] E[a[i]]`` of each row, in the type of hidden."""
    toward = problem.items[problem.action.long()].to(slopes.lse.dtype)
    toward.mul_(slopes.logged[:, None]).addcmul_(mean, slopes.soft[:, None])
    return toward.to(problem.hidden.dtype)


def takes_kernel(hidden: Tensor) -> bool:
    """Whether kernel.py has a tile for these rows.

    float32 takes it where torch allows TF32: without tensor cores its tiles would spill.
    """
    if not uses_triton(hidden) or hidden.shape[1] > shapes.MAX_WIDTH:
        return False
    if INTERPRETED:  # which multiplies bfloat16 wrongly, and float32 exactly
        return hidden.dtype in (torch.float32, torch.float16)
    if hidden.dtype == torch.float32:
        return torch.version.hip is None and tf32_allowed()
    return hidden.dtype in (torch.bfloat16, torch.float16)


def takes_products(hidden: Tensor) -> bool:
    """Whether products.py serves these rows, where kernel.py does not."""
    if not uses_triton(hidden) or torch.version.hip is not None:
        return False
    half = torch.float16 if INTERPRETED else torch.bfloat16
    return hidden.dtype in (torch.float32, torch.float16, half)


def tf32_allowed() -> bool:
    """Whether float32 products may run as TF32 on CUDA, however torch was told.

    ``torch.get_float32_matmul_precision`` raises where ``torch.backends`` was told.
    """
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def _living(problem: Problem) -> tuple[Problem, Tensor | None]:
    """The live rows; where only the device knows them, all rows with the dead ones neutralised."""
    hidden, action, n_rows = problem.hidden, problem.action, problem.n_rows
    if n_rows is None:
        return problem, None
    if n_rows.device.type == "cpu":
        rows = max(0, min(int(n_rows), hidden.shape[0]))
        return replace(problem, hidden=hidden[:rows], action=action[:rows], n_rows=None), None
    return _neutralised(problem, n_rows)


def _neutralised(problem: Problem, n_rows: Tensor) -> tuple[Problem, Tensor]:
    """All rows, the dead ones zero with item 0, and which live: for counts that nobody reads."""
    hidden = problem.hidden
    live = torch.arange(hidden.shape[0], device=hidden.device) < n_rows.reshape(())
    hidden = torch.where(live[:, None], hidden, 0)
    action = torch.where(live, problem.action, 0)
    return replace(problem, hidden=hidden, action=action, n_rows=None), live


def _known(problem: Problem) -> tuple[Problem, Tensor | None]:
    """The problem with actions of the catalogue alone; on a CPU others have been refused."""
    return (problem, None) if problem.device.type == "cpu" else _replaced(problem)


def _replaced(problem: Problem) -> tuple[Problem, Tensor]:
    """Item 0 for actions outside the catalogue, and which are inside.

    -1 may stand for padding, and ATen would take it for the last item.
    """
    known = (problem.action >= 0) & (problem.action < problem.items.shape[0])
    return replace(problem, action=torch.where(known, problem.action, 0)), known


def _living_slopes(slopes: Slopes, rows: int, live: Tensor | None) -> Slopes:
    """Slopes of the rows that :func:`_living` leaves: nothing is sent by a dead one."""
    lse, soft, logged = (x[:rows] for x in slopes)
    if live is None:
        return Slopes(lse, soft, logged)
    # A dead row's scores are the bias alone: exp(bias - 0) may overflow, and 0 inf is NaN.
    lse = torch.where(live, lse, torch.inf)
    return Slopes(lse, torch.where(live, soft, 0), torch.where(live, logged, 0))


def _spread(values: Tensor, index: Tensor, live: Tensor | None, like: Tensor) -> Tensor:
    """``values`` in rows ``index`` of zeros shaped as ``like``."""
    if live is None:
        return spread(values, index[: values.shape[0]].long(), like)
    # Dead places all name row 0, which may be a kept one: they write to a row that is cut off.
    target = torch.where(live, index, like.shape[0]).long()
    out = like.new_zeros(like.shape[0] + 1, like.shape[1])
    return out.index_copy_(0, target, values)[:-1]
