"""From per-sample terms to one number, masks respected, in float32 or better."""

from __future__ import annotations

from torch import Tensor

from torchrl_drpo.functional.checks import check_same_shape


def weighted_nll(
    log_prob: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    r"""Weighted negative log-likelihood :math:`-\sum_i w_i \log\pi(a_i|s_i) / N`.

    Every objective of this package is this expression with its own rule for ``w``. The weights
    are constants: no gradient reaches whatever produced them. Rows of weight 0 may hold any
    log-probability, infinite ones included: they are selected away, not multiplied by zero.

    Args:
        log_prob: log-probability of each logged action, in nats, any shape.
        weight: weight of each sample, of the same shape; negative weights repel.
        mask: ``True`` where a sample counts. N is the number of samples that count.
        reduction: ``"mean"``, or ``"sum"`` to leave out the division by N.

    Returns:
        A 0-d tensor, float32 or wider; zero, with zero gradient, when nothing counts.

    Raises:
        ValueError: if the shapes differ or the reduction is unknown.

    Examples:
        >>> import torch
        >>> weighted_nll(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0]))
        tensor(2.5000)
    """
    check_same_shape(log_prob=log_prob, weight=weight, mask=mask)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    weight = weight.detach()
    counted = weight != 0 if mask is None else (weight != 0) & mask
    kept = log_prob.where(counted, log_prob.new_zeros(()))
    if kept.dtype.itemsize < 4:
        kept = kept.float()
    # A masked row may carry any weight, NaN included.
    terms = weight.where(counted, weight.new_zeros(())) * kept
    total = -terms.sum()
    if reduction == "sum":
        return total
    if mask is None:
        return total / max(terms.numel(), 1)
    return total / mask.sum().clamp_min(1)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` where nothing out of nothing is nothing: 0 / 0 gives 0.

    Examples:
        >>> import torch
        >>> ratio(torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, 0.0, 4.0]))
        tensor([0.0000,    inf, 0.2500])
    """
    return part / whole.where((whole != 0) | (part != 0), whole.new_ones(()))
