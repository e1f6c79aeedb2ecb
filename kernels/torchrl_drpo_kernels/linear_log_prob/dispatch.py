"""Which implementation of ``linear_log_prob`` runs, and what is the same for all of them.

kernel.py      CUDA, items up to 256 wide: half precision, and float32 where TF32 is allowed.
products.py    CUDA, everything else but float64.
tiles.py       the CPU; float64, and AMD cards where kernel.py has no tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import HAS_TRITON, INTERPRETED, uses_triton
from torchrl_drpo_kernels._common_rows import spread
from torchrl_drpo_kernels.linear_log_prob import reference, tiles

if HAS_TRITON:
    from torchrl_drpo_kernels.linear_log_prob import kernel, kernel_backward, products, shapes


def forward(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    keep: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]``, ``mean [N, D]``, ``scores [N, V]``.

    The last two have no rows unless they are needed; scores are kept for all rows, on a CPU only.
    """
    n = hidden.shape[0]
    dtype = reference.accumulation_dtype(hidden.dtype)
    scores = hidden.new_empty((n if keep else 0, items.shape[0]), dtype=dtype)
    if takes_kernel(hidden):  # which knows the dead rows by itself
        found = kernel.forward(hidden, items, action, n_rows, bias, inverse_temperature, need_mean)
        return *found, scores
    h, a, live = _living(hidden, action, n_rows)
    arguments = h, items, a, bias, inverse_temperature, need_mean
    if takes_products(hidden):
        log_prob, lse, mean = products.forward(*arguments)
    else:
        log_prob, lse, mean = tiles.forward(*arguments, scores if keep else None)
    if live is not None:
        log_prob, lse = torch.where(live, log_prob, 0), torch.where(live, lse, 0)
        mean = torch.where(live[:, None], mean, 0) if need_mean else mean
    return _padded(log_prob, n), _padded(lse, n), _padded(mean, n if need_mean else 0), scores


def backward(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    mean: Tensor,
    scores: Tensor | None,
    grad_log_prob: Tensor,
    grad_lse: Tensor,
    need_hidden: bool,
    need_items: bool,
    need_bias: bool,
    index: Tensor | None = None,
    like: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, items and bias, each empty (no rows) unless needed.

    With ``index`` that of hidden is shaped as ``like`` and holds row i of ``hidden`` in row
    ``index[i]``, zeros elsewhere.
    """
    logged = grad_log_prob * inverse_temperature  # what a row sends to its logged logit
    soft = grad_lse * inverse_temperature - logged  # and to all of them, times their p
    d_hidden, d_items = hidden.new_empty(0, hidden.shape[1]), items.new_empty(0, items.shape[1])
    d_bias = (items if bias is None else bias).new_empty(0)
    if takes_kernel(hidden):
        if need_hidden:
            d_hidden = hidden.new_zeros(hidden.shape if like is None else like.shape)
            kernel_backward.hidden_gradient(
                items, action, n_rows, mean, soft, logged, d_hidden, index
            )
        if need_items or need_bias:
            d_items, found_bias = kernel_backward.items_gradient(
                hidden, items, action, n_rows, bias, inverse_temperature,
                lse, soft, logged, need_bias,
            )  # fmt: skip
    else:
        h, a, live = _living(hidden, action, n_rows)
        mean, lse, logged, soft = (x[: h.shape[0]] for x in (mean, lse, logged, soft))
        if live is not None:
            logged, soft = torch.where(live, logged, 0), torch.where(live, soft, 0)
            # A dead row's scores are the bias alone: exp(bias - 0) may overflow, and 0 inf is NaN.
            lse = torch.where(live, lse, torch.inf)
        if need_hidden:
            toward = items[a.long()].to(lse.dtype).mul_(logged[:, None])
            toward = toward.addcmul_(mean, soft[:, None]).to(hidden.dtype)
            if index is None or like is None:
                d_hidden = _padded(toward, hidden.shape[0])
            else:
                d_hidden = _spread(toward, index, live, like)
        if need_items or need_bias:
            arguments = h, items, a, bias, inverse_temperature, lse, soft, logged, need_bias
            if takes_products(hidden):
                d_items, found_bias = products.backward_items(*arguments)
            else:
                kept = scores if scores is not None and scores.shape[0] else None
                d_items, found_bias = tiles.backward_items(*arguments, kept)
    return d_hidden, d_items, found_bias if need_bias else d_bias


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


def _living(
    hidden: Tensor, action: Tensor, n_rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The live rows; where only the device knows them, all rows with the dead ones neutralised."""
    if n_rows is None:
        return hidden, action, None
    if n_rows.device.type == "cpu":
        rows = max(0, min(int(n_rows), hidden.shape[0]))
        return hidden[:rows], action[:rows], None
    return _neutralised(hidden, action, n_rows)


def _neutralised(hidden: Tensor, action: Tensor, n_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All rows, the dead ones zero with item 0, and which live: for counts that nobody reads."""
    live = torch.arange(hidden.shape[0], device=hidden.device) < n_rows.reshape(())
    return torch.where(live[:, None], hidden, 0), torch.where(live, action, 0), live


def _padded(values: Tensor, rows: int) -> Tensor:
    """``values`` with zero rows appended up to ``rows``."""
    if values.shape[0] == rows:
        return values
    out = values.new_zeros((rows, *values.shape[1:]))
    out[: values.shape[0]] = values
    return out


def _spread(values: Tensor, index: Tensor, live: Tensor | None, like: Tensor) -> Tensor:
    """``values`` in rows ``index`` of zeros shaped as ``like``."""
    if live is None:
        return spread(values, index[: values.shape[0]].long(), like)
    # Dead places all name row 0, which may be a kept one: they write to a row that is cut off.
    target = torch.where(live, index, like.shape[0]).long()
    out = like.new_zeros(like.shape[0] + 1, like.shape[1])
    return out.index_copy_(0, target, values)[:-1]
