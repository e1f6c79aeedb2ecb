r"""Which estimator to trust, and how well estimates choose policies.

:func:`slope` needs no truth: of estimates with growing bias and shrinking width it takes the last
that all wider ones still hold. :func:`cross_validated` needs none either: it takes the estimator
that best foretells, from one half of the units, what an unbiased one finds in the other half.
Against a known truth (a simulator's) :func:`selection_quality` says how good a choice was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.estimate import Estimate
from torchrl_drpo.evaluation.off_policy.estimators import doubly_robust, ips
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows

Estimator = Callable[[LoggedRows], Estimate]


def slope(estimates: Sequence[Estimate]) -> Estimate:
    r"""SLOPE: the last of nested estimates that agrees with all wider ones.

    Sorted from the widest interval (the least bias) to the narrowest, estimate k is taken while
    :math:`|\hat V_k - \hat V_j| \le c_j + (\sqrt 6 - 1) c_k` for all j before it, with c half the
    width of the interval.

    Source: Su, Srinath and Krishnamurthy 2020, "Adaptive estimator selection for off-policy
    evaluation"; the constant is that of Tucker and Lee 2021, "Improved estimator selection".

    Args:
        estimates: of one family, such as Switch-DR with several caps; at least one.

    Example:
        >>> from torchrl_drpo.evaluation.off_policy.estimators import clipped_ips
        >>> half = torch.full((400,), 0.5).log()
        >>> rows = LoggedRows(torch.tensor([0.0, 1.0]).repeat(200), half, half)
        >>> print(slope([clipped_ips(rows, cap=cap) for cap in (0.1, 10.0, 100.0)]))
        0.5 [0.4508, 0.5492] (usable)
    """
    if not estimates:
        raise ValueError("slope needs at least one estimate, got none")
    known = [each for each in estimates if math.isfinite(each.low)]
    if not known:
        raise ValueError("slope needs estimates with an interval; the direct method has none")
    known.sort(key=lambda each: each.low - each.high)  # the widest first
    chosen = known[0]
    for k in range(1, len(known)):
        reach = (math.sqrt(6) - 1) * _half(known[k])
        if any(abs(known[k].value - wide.value) > _half(wide) + reach for wide in known[:k]):
            break
        chosen = known[k]
    return chosen


def cross_validated(
    rows: LoggedRows,
    estimators: Mapping[str, Estimator],
    *,
    validator: Estimator | None = None,
    splits: int = 10,
    seed: int = 0,
) -> str:
    """Name of the estimator that foretells an unbiased one best, over random halves of the units.

    Source: Cief, Kompan and Kveton 2024, "Cross-validated off-policy evaluation" (2405.15332).

    Args:
        rows: of the log; whole clusters go to one half.
        estimators: to choose among, by name.
        validator: unbiased; DR where there is a model, else IPS.
        splits: random halves.
        seed: of the halves.
    """
    if not estimators:
        raise ValueError("name at least one estimator to choose among")
    if validator is None:
        validator = ips if rows.value is None else doubly_robust
    unit = torch.arange(len(rows)) if rows.cluster is None else rows.cluster
    unit = unit.unique(return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    loss = dict.fromkeys(estimators, 0.0)
    for _ in range(splits):
        order = torch.randperm(int(unit.max()) + 1, generator=generator)
        first = (order < len(order) / 2)[unit]
        for train, test in ((first, ~first), (~first, first)):
            truth, told = validator(rows.take(test)).value, rows.take(train)
            for name, estimator in estimators.items():
                loss[name] += (estimator(told).value - truth) ** 2
    return min(loss, key=lambda name: loss[name])


class SelectionQuality(NamedTuple):
    """How good a choice of policies by estimates is, against their true values.

    Attributes:
        rank_correlation: Spearman's, in [-1, 1].
        regret: true value of the best policy minus that of the best of the k chosen.
        sharpe_ratio: best of the k chosen over the logging policy, in standard deviations of their
            true values (Kiyohara et al. 2024, "SharpeRatio@k"); NaN for one policy.
    """

    rank_correlation: float
    regret: float
    sharpe_ratio: float


def selection_quality(
    estimated: Tensor, truth: Tensor, logging_value: float, k: int = 1
) -> SelectionQuality:
    """Of choosing the k policies with the largest estimates.

    Args:
        estimated: values by an estimator, ``[P]``.
        truth: true values, ``[P]``.
        logging_value: true value of the policy that logged.
        k: how many are tried.

    Example:
        >>> truth = torch.tensor([0.5, 0.25, 0.75])
        >>> selection_quality(torch.tensor([3.0, 1.0, 2.0]), truth, logging_value=0.3).regret
        0.25
    """
    if not 1 <= k <= len(truth):
        raise ValueError(f"k must lie in [1, {len(truth)}], got {k}")
    truth, estimated = truth.double(), estimated.double()
    best = truth[estimated.topk(k).indices]
    spread = best.std().item() if k > 1 else math.nan
    gain = best.max().item() - logging_value
    return SelectionQuality(
        rank_correlation=_correlation(_ranks(estimated), _ranks(truth)),
        regret=truth.max().item() - best.max().item(),
        sharpe_ratio=gain / spread if spread else math.nan,
    )


def _half(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks; equals share theirs."""
    below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(1)
    at = (values.unsqueeze(0) == values.unsqueeze(1)).sum(1)
    return below + (at + 1) / 2


def _correlation(a: Tensor, b: Tensor) -> float:
    if len(a) < 2:
        return math.nan
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()
