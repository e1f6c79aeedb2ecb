"""``drpo::drpo_gaussian_loss``: select, log-density of the kept rows and loss in one op.

Nothing is packed: the kernels read the kept rows in place. The gradient launches the backward of
``drpo::gaussian_log_prob`` on the same rows, which is differentiable once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common_rows import accumulation_dtype
from torchrl_drpo_kernels.drpo_loss import step
from torchrl_drpo_kernels.drpo_loss.step import DRPOStep
from torchrl_drpo_kernels.gaussian_log_prob import op as gaussian
from torchrl_drpo_kernels.select.rule import Rule, Selection


def drpo_gaussian_loss(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    quality: Tensor,
    kappa: Tensor | float,
    mask: Tensor | None = None,
    *,
    max_rows: int | None = None,
    **rule: Any,
) -> DRPOStep:
    r"""One step of DRPO under a diagonal Gaussian policy that was evaluated for all rows.

    .. math:: L = -\frac1K \sum_{i \in \text{top } K} w_i \log\pi(a_i|s_i)

    The same as ``select``, ``gaussian_log_prob`` of its rows, and the weighted mean, as one op:
    rows that are not kept cost nothing behind the policy, and their gradient is zero. On CUDA
    nothing is read back, so a step is captured in a CUDA graph. Differentiable in ``mean``,
    ``log_std`` and ``action``, twice where asked for. Where the policy's own forward pass is
    dear, select first and let it see the kept rows only.

    Args:
        mean: policy means, float16, bfloat16, float32 or float64, ``[N, d]``.
        log_std: logarithms of the standard deviations, ``[d]`` or ``[N, d]``.
        action: logged actions, ``[N, d]``.
        quality: R, what rows are selected by, float32, ``[N]``.
        kappa: fraction to keep, in (0, 1]: ``[1]`` float32 on the device, or a number.
        mask: bool ``[N]``, ``True`` where a row counts; masked rows may hold anything.
        max_rows: an upper bound M of the kept rows that the host knows; sizes launches and
            outputs. ``None``: N. More kept rows than this are an error on a CPU, and left out
            elsewhere, where looking would wait for the device.
        **rule: ``weighting``, ``ties``, ``temperature``, ``normalize``, ``eps``,
            ``target_ratio``, ``bounds``, ``up``, ``down``: see ``select``.

    Returns:
        A :class:`DRPOStep`: loss, detached log-probs of the kept rows, the selection.

    Raises:
        TypeError: if a dtype is wrong, or an option unknown.
        ValueError: if a rank, shape, device, stride or option is wrong, or kappa out of (0, 1].

    Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import drpo_gaussian_loss
        >>> mean = torch.zeros(4, 2, requires_grad=True)
        >>> quality = torch.tensor([1.0, 3.0, 2.0, 0.0])
        >>> step = drpo_gaussian_loss(
        ...     mean, torch.zeros(2), torch.ones(4, 2), quality, 0.5, weighting="uniform"
        ... )
        >>> step.loss.backward()  # K = 2 rows, each with log-density -(2 + 2 log 2 pi) / 2
        >>> step.loss.item(), mean.grad.tolist()
        (2.837..., [[0.0, 0.0], [-0.5, -0.5], [-0.5, -0.5], [0.0, 0.0]])
    """
    gaussian.check(mean, log_std, action)
    options = Rule.of(**rule)
    kappa, places = step.checked(quality, mask, kappa, mean, max_rows)
    loss, log_prob, _, *selection = _drpo_gaussian_loss(
        mean, log_std, action, quality.detach(), mask, kappa, places, *options.parts
    )
    return DRPOStep(loss, log_prob, Selection(*selection))


@torch.library.custom_op("drpo::drpo_gaussian_loss", mutates_args=())
def _drpo_gaussian_loss(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    weighting: str,
    ties: str,
    normalize: bool,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns (loss, log_prob [M], slope [M], index [M], weight [M], stats, counts).

    slope is the loss's derivative by each log_prob.
    """
    rule = Rule.from_parts(weighting, ties, normalize, numbers)
    index, weight, stats, counts = step.selected(quality, mask, kappa, rule, max_rows)
    log_prob, _ = gaussian.run(mean, log_std, action, index, counts[:1])
    loss, slope = step.loss_and_slope(log_prob, weight, counts)
    return loss, log_prob, slope, index, weight, stats, counts


@_drpo_gaussian_loss.register_fake
def _(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    log_prob = mean.new_empty(max_rows, dtype=accumulation_dtype(mean, log_std, action))
    rows = log_prob, torch.empty_like(log_prob)
    return log_prob.new_empty(()), *rows, *step.empty_selection(quality, max_rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, slope, index, _, _, counts = output
    step.one_gradient(ctx, output)
    ctx.save_for_backward(*inputs[:3], slope, index, counts)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 11
    mean, log_std, action, slope, index, counts = ctx.saved_tensors
    slope = grad * slope
    grad_mean, grad_log_std = gaussian._backward(slope, mean, log_std, action, index, counts[:1])
    grad_action = (-grad_mean).to(action.dtype) if ctx.needs_input_grad[2] else None
    return grad_mean, grad_log_std, grad_action, *([None] * 8)


_drpo_gaussian_loss.register_autograd(_differentiate, setup_context=_save)
