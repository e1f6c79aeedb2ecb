r"""What the fused steps share: the result, the checks, the loss of the kept rows and its slope.

loss            = -1/K sum_j w_j log_prob_j         over the places that hold a kept row
slope_j         = d loss / d log_prob_j = -w_j / K
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import HAS_TRITON, check_shape, uses_triton
from torchrl_drpo_kernels.select import op as select_op
from torchrl_drpo_kernels.select.rule import Count, Rule, Selection, Stat

if HAS_TRITON:
    from torchrl_drpo_kernels.drpo_loss import kernel

#: Places up to which one launch of kernel.py sums the loss; beyond, ATen's many programs do.
MAX_PLACES = 16_384


class DRPOStep(NamedTuple):
    """What a fused step returns; everything stays on the device.

    Attributes:
        loss: 0-dim, float32 (float64 where the policy is), the only differentiable entry.
        log_prob: ``[M]``, log-probabilities of the kept rows in nats, detached; 0 behind.
        selection: rows, weights, statistics and the next kappa; ``index`` and ``weight`` are
            ``[M]``.
    """

    loss: Tensor
    log_prob: Tensor
    selection: Selection


def checked(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor | float,
    like: Tensor,
    max_rows: int | None,
) -> tuple[Tensor, int]:
    """Raises on arguments that do not fit the policy's ``like [N, ...]``; kappa [1] and M."""
    kappa = select_op.check(quality, mask, kappa)
    n = like.shape[0]
    check_shape("quality", quality, (n,), "one number a row of the policy's output")
    if quality.device != like.device:
        raise ValueError(
            f"quality lies on {quality.device} but the policy's output on {like.device}; "
            "move all arguments to one device"
        )
    if max_rows is None:
        return kappa.detach(), n
    if max_rows < 0:
        raise ValueError(f"max_rows must be at least 0, got {max_rows}")
    return kappa.detach(), min(max_rows, n)


def selected(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule, max_rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The selection with ``index`` and ``weight`` cut to ``max_rows`` places.

    Raises:
        ValueError: on a CPU, if more rows were kept than there are places.
    """
    index, weight, stats, counts = select_op.run(quality, mask, kappa, rule)
    if counts.device.type == "cpu" and int(counts[Count.N_ROWS]) > max_rows:
        raise ValueError(
            f"max_rows is {max_rows} but {int(counts[Count.N_ROWS])} rows were kept (K = "
            f"{int(counts[Count.QUOTA])}); it must bound kappa times the rows, and all rows where "
            "ties='fraction' shares the last places"
        )
    return index[:max_rows], weight[:max_rows], stats, counts


def empty_selection(quality: Tensor, max_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`selected` returns, for shapes and types only."""
    index = quality.new_empty(max_rows, dtype=torch.int32)
    weight = quality.new_empty(max_rows)
    stats = quality.new_empty(len(Stat))
    return index, weight, stats, index.new_empty(len(Count))


def loss_and_slope(log_prob: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, 0-dim, and its derivative by each place's log-probability, ``[M]``.

    A place of weight 0 may hold any log-probability.

    >>> counts = torch.tensor([2, 2, 4, 1, 1])  # K = 2
    >>> loss_and_slope(torch.tensor([-1.0, -torch.inf]), torch.tensor([3.0, 0.0]), counts)
    (tensor(1.5000), tensor([-1.5000, -0.0000]))
    """
    few = log_prob.dtype == torch.float32 and log_prob.shape[0] <= MAX_PLACES
    if few and uses_triton(log_prob):
        return kernel.loss_and_slope(log_prob, weight, counts)
    quota = counts[Count.QUOTA].clamp_min(1)
    kept = torch.where(weight != 0, weight * log_prob, 0.0)
    return -kept.sum() / quota, -weight.to(log_prob.dtype) / quota


def one_gradient(ctx: Any, outputs: tuple[Tensor, ...]) -> None:
    """Only the loss is differentiable, and no zeros are made up for what is not."""
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.set_materialize_grads(False)
