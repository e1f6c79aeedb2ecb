r"""Top-kappa selection in ATen: the specification of the op, and its path on a CPU.

With n valid rows (finite, and ``True`` in the mask) and K = kappa n rounded half up, at least 1:

    nu      = K-th largest valid quality
    kept    = the rows above nu, and K - n_above copies of nu: K values, whatever the ties
    linear      w_i = (r_i - nu) / (std(kept) + eps), without the division if not ``normalize``
    uniform     w_i = 1
    exponential w_i = exp((r_i - mean(kept)) / temperature)

A row at nu has no linear weight. Under the other two weightings ``ties="first"`` keeps the tied
rows of lowest index until K are kept, and ``ties="fraction"`` keeps all of them with their weight
times (K - n_above) / n_tied, which makes uniform weights the exact solution of the distributionally
robust problem whose quota is K.

Next kappa: min(high, up kappa) if std(kept) < target_ratio std(batch), else max(low, down kappa).
Standard deviations are the sample ones, and 0 for one value or none.

Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo_kernels.select.rule import DECIMAL, Count, Rule, Stat

#: Rows beyond which a sample of about this size bounds the threshold first.
_SAMPLED_ROWS, _SAMPLE_SIZE = 16_384, 4_096


def select(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ``(index, weight, stats, counts)`` as :class:`~..rule.Selection` has them.

    Partial selection, never a sort; moments in float64. It reads sizes on the host: free on a
    CPU, a synchronisation on any other device.
    """
    index = quality.new_zeros(quality.shape, dtype=torch.int32)
    weight = torch.zeros_like(quality)
    values, rows = _valid_values(quality, mask)
    n = values.numel()
    if n == 0:
        stats = quality.new_zeros(len(Stat))
        stats[Stat.NEXT_KAPPA] = next_kappa(float(kappa), 0.0, 0.0, rule)
        return index, weight, stats, index.new_zeros(len(Count))

    quota = quota_of(float(kappa), n)
    places, kept, threshold = _at_least_threshold(values, quota)
    tied = kept == threshold
    n_tied = int(torch.count_nonzero(tied))
    n_above = kept.numel() - n_tied
    room = quota - n_above  # places that the tied rows share, at least 1
    share = room / n_tied

    excess = kept.double().sub_(threshold)  # moments about nu lose no digits to a common offset
    kept_mean, kept_std = _moments(excess, quota, threshold)
    batch_mean, batch_std = _moments(values.double().sub_(threshold), n, threshold)
    emit: Tensor | None = None  # all of them
    if rule.weighting == "linear":
        emit = ~tied
        kept_weight = excess / (kept_std + rule.eps) if rule.normalize else excess
    else:
        kept_weight = torch.ones_like(excess)
        if rule.weighting == "exponential":
            kept_weight = excess.add_(threshold - kept_mean).div_(rule.temperature).exp_()
        if rule.ties == "first":
            emit = ~tied | (tied.cumsum(0) <= room)
        else:
            kept_weight = torch.where(tied, kept_weight * share, kept_weight)
    if emit is not None:
        places, kept_weight = places[emit], kept_weight[emit]

    n_rows = places.numel()
    index[:n_rows] = places if rows is None else rows[places]
    weight[:n_rows] = kept_weight
    step = next_kappa(float(kappa), kept_std, batch_std, rule)
    square = float(kept_weight.dot(kept_weight))
    ess = float(kept_weight.sum()) ** 2 / square if square > 0 else 0.0
    moments = [threshold, kept_mean, kept_std, batch_mean, batch_std, ess, step, share]
    counts = [n_rows, quota, n, n_above, n_tied]
    return index, weight, quality.new_tensor(moments), index.new_tensor(counts)


def quota_of(kappa: float, n: int) -> int:
    """K: kappa n rounded half up in float64, at least 1 and at most n, for a float32 kappa."""
    return min(n, max(1, math.floor(n * kappa * DECIMAL + 0.5)))


def next_kappa(kappa: float, kept_std: float, batch_std: float, rule: Rule) -> float:
    """One step of the controller: widen when the kept rows are too much alike, else narrow."""
    if kept_std < rule.target_ratio * batch_std:
        return min(rule.high, rule.up * kappa)
    return max(rule.low, rule.down * kappa)


def _valid_values(quality: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The finite, unmasked values and their rows (``None`` where every row is valid)."""
    if mask is None:
        if quality.numel() == 0:
            return quality, None
        low, high = quality.aminmax()  # NaN wins both, and this is far cheaper than isfinite
        if math.isfinite(low) and math.isfinite(high):
            return quality, None
    valid = torch.isfinite(quality) if mask is None else torch.isfinite(quality) & mask
    rows = valid.nonzero().flatten()
    return quality[rows], rows


def _at_least_threshold(values: Tensor, quota: int) -> tuple[Tensor, Tensor, float]:
    """Places and values of the rows at or above the threshold nu, and nu itself.

    Beyond ``_SAMPLED_ROWS`` rows, the quantile of a sample, taken low, bounds nu from below, so
    that the partial selection sees little more than the kept rows: at a million rows and kappa
    0.1 on one core, 8 ms instead of 16. A bound that turns out too high is not used.
    """
    n = values.numel()
    if n > _SAMPLED_ROWS:
        sample = values[:: n // _SAMPLE_SIZE]
        chance = quota / n
        spread = 5 * math.sqrt(chance * (1 - chance) * sample.numel())
        rank = math.ceil(chance * sample.numel() + spread) + 5
        if rank < sample.numel():
            bound = sample.kthvalue(sample.numel() - rank + 1).values
            places = (values >= bound).nonzero().flatten()
            if places.numel() >= quota:
                candidates = values[places]
                above, kept, threshold = _at_least_threshold_exactly(candidates, quota)
                return places[above], kept, threshold
    return _at_least_threshold_exactly(values, quota)


def _at_least_threshold_exactly(values: Tensor, quota: int) -> tuple[Tensor, Tensor, float]:
    threshold = float(values.kthvalue(values.numel() - quota + 1).values)
    places = (values >= threshold).nonzero().flatten()
    return places, values[places], threshold


def _moments(excess: Tensor, count: int, threshold: float) -> tuple[float, float]:
    """Mean and sample standard deviation of ``count`` values, given float64 values minus nu.

    Values that are missing from ``excess``, or in it beyond ``count``, lie at nu and add nothing.
    """
    total, square = float(excess.sum()), float(excess.dot(excess))
    variance = max(0.0, square - total * total / count) / (count - 1) if count > 1 else 0.0
    return threshold + total / count, math.sqrt(variance)
