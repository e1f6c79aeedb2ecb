"""``drpo::drpo_gather_loss``: select, token log-prob of the kept rows and loss in one op.

Nothing is packed: the kernels read the kept rows' logits in place. The gradient launches the
backward of ``drpo::gather_log_prob`` on the same rows, which is differentiable once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common_rows import accumulation_dtype
from torchrl_drpo_kernels.drpo_loss import step
from torchrl_drpo_kernels.drpo_loss.step import DRPOStep
from torchrl_drpo_kernels.gather_log_prob import op as gather
from torchrl_drpo_kernels.select.rule import Rule, Selection


def drpo_gather_loss(
    logits: Tensor,
    action: Tensor,
    quality: Tensor,
    kappa: Tensor | float,
    mask: Tensor | None = None,
    *,
    token_mask: Tensor | None = None,
    max_rows: int | None = None,
    **rule: Any,
) -> DRPOStep:
    r"""One step of DRPO under a policy whose logits exist: items, or sequences of codes.

    .. math:: L = -\frac1K \sum_{i \in \text{top } K} w_i \sum_t \log\pi(a_{it}|s_i, a_{i,<t})

    The same as ``select``, ``gather_log_prob`` of its rows, and the weighted mean, as one op; no
    softmax is materialised, and the gradient of logits that were not kept is zero. On CUDA
    nothing is read back. Differentiable in ``logits``, twice where asked for.

    Args:
        logits: float16, bfloat16, float32 or float64, ``[N, V]`` or ``[N, T, V]``.
        action: logged ids in [0, V), int32 or int64, ``[N]`` or ``[N, T]``.
        quality: R, what rows are selected by, float32, ``[N]``.
        kappa: fraction to keep, in (0, 1]: ``[1]`` float32 on the device, or a number.
        mask: bool ``[N]``, ``True`` where a row counts; masked rows may hold anything.
        token_mask: bool ``[N, T]``, ``True`` where a token counts; sequences only.
        max_rows: an upper bound M of the kept rows; see ``drpo_gaussian_loss``.
        **rule: options of ``select``.

    Returns:
        A :class:`DRPOStep`: loss, detached log-probs of the kept rows, the selection.

    Raises:
        TypeError: if a dtype is wrong, or an option unknown.
        ValueError: if a rank, shape, device, stride or option is wrong, kappa out of (0, 1], or,
            on a CPU, a kept action out of [0, V).

    Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import drpo_gather_loss
        >>> logits, action = torch.zeros(4, 3, 8), torch.zeros(4, 3, dtype=torch.int64)
        >>> quality = torch.tensor([1.0, 3.0, 2.0, 0.0])
        >>> step = drpo_gather_loss(logits, action, quality, 0.5, weighting="uniform")
        >>> (step.loss / 3).exp()  # perplexity of a token
        tensor(8.)
    """
    gather.check(logits, action, token_mask)
    options = Rule.of(**rule)
    kappa, places = step.checked(quality, mask, kappa, logits, max_rows)
    if logits.ndim == 2:
        logits, action = logits.unsqueeze(1), action.unsqueeze(1)
    loss, log_prob, _, _, *selection = _drpo_gather_loss(
        logits, action, token_mask, quality.detach(), mask, kappa, places, *options.parts
    )
    return DRPOStep(loss, log_prob, Selection(*selection))


@torch.library.custom_op("drpo::drpo_gather_loss", mutates_args=())
def _drpo_gather_loss(
    logits: Tensor,
    action: Tensor,
    token_mask: Tensor | None,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    weighting: str,
    ties: str,
    normalize: bool,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns (loss, log_prob [M], slope [M], lse [M, T], index [M], weight [M], stats, counts).

    slope is the loss's derivative by each log_prob.
    """
    rule = Rule.from_parts(weighting, ties, normalize, numbers)
    index, weight, stats, counts = step.selected(quality, mask, kappa, rule, max_rows)
    log_prob, lse = gather.run(logits, action, token_mask, index, counts[:1])
    loss, slope = step.loss_and_slope(log_prob, weight, counts)
    return loss, log_prob, slope, lse, index, weight, stats, counts


@_drpo_gather_loss.register_fake
def _(
    logits: Tensor,
    action: Tensor,
    token_mask: Tensor | None,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    log_prob = logits.new_empty(max_rows, dtype=accumulation_dtype(logits))
    lse = log_prob.new_empty(max_rows, logits.shape[1])
    rows = log_prob, torch.empty_like(log_prob), lse
    return log_prob.new_empty(()), *rows, *step.empty_selection(quality, max_rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, slope, lse, index, _, _, counts = output
    step.one_gradient(ctx, output)
    ctx.save_for_backward(*inputs[:3], slope, lse, index, counts)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    logits, action, token_mask, slope, lse, index, counts = ctx.saved_tensors
    slope = grad * slope
    grad_logits = gather._backward(slope, logits, lse, action, token_mask, index, counts[:1])
    return grad_logits, *([None] * 10)


_drpo_gather_loss.register_autograd(_differentiate, setup_context=_save)
