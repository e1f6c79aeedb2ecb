r"""Which policy, and by which estimator: one choice for a log, from what the log itself says.

Notation   P candidates; e(p) estimates by one estimator, t(p) by a nearly unbiased reference, both
           less their means over the candidates, since what all share chooses nobody.

An estimator's mean squared error is bias plus variance. Its variance is known from its rows. Its
bias shows in the distance to the reference, of which chance alone makes :math:`\mathrm{Var}(e - t)`
(paired by row, so that what both share cancels):

.. math:: \widehat{MSE}(e) = \max\big(0, \|e - t\|^2 - 2\, \mathrm{Var}(e - t)\big)
          + \mathrm{Var}(e)

Chance is taken off twice, as in Akaike's criterion: taken off once, the estimate of the bias is
right on average and so noisy that one time in three a good model is left for heavy weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.estimate import Estimate
from torchrl_drpo.evaluation.off_policy.estimators import (
    ESTIMATORS,
    self_normalised_doubly_robust,
    snips,
)
from torchrl_drpo.evaluation.off_policy.intervals import standard_error
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows

Estimator = Callable[[LoggedRows], Estimate]
#: How often the distance that chance makes is taken off; see the module.
CHANCE = 2.0
_NEEDS = {
    "value": {"DM", "DR", "SNDR", "Switch-DR", "DRos", "sub-Gaussian DR", "OffCEM"},
    "log_target_group": {"MIPS", "OffCEM"},
}


class PolicyChoice(NamedTuple):
    """A policy, and what it was chosen by.

    Attributes:
        policy: name of the candidate with the largest estimate.
        estimator: name of the estimator with the least mean squared error on this log.
        estimates: by it, of every candidate.
        squared_error: estimated mean squared error of every estimator, summed over the candidates.
    """

    policy: str
    estimator: str
    estimates: dict[str, Estimate]
    squared_error: dict[str, float]


def choose_policy(
    candidates: Mapping[str, LoggedRows],
    estimators: Mapping[str, Estimator] | None = None,
    *,
    reference: Estimator | None = None,
) -> PolicyChoice:
    """The best of several policies, by the estimator that this log supports best.

    Policies compared by different estimators would be compared by their biases, so one is chosen
    for all of them. Source of the idea, for the threshold of Switch-DR: Wang, Agarwal and Dudik
    2017, "Optimal and adaptive off-policy evaluation in contextual bandits" (1612.01205).

    Args:
        candidates: the same logged rows, in the same order, under each policy; by name.
        estimators: to choose among, by name; all that the rows have the columns for by default.
        reference: nearly unbiased, SNDR where the rows have a reward model and else SNIPS.

    Returns:
        The choice. Whether it means anything is the verdict of its estimates; whether it beats the
        others :func:`~torchrl_drpo.evaluation.off_policy.against` says.

    Raises:
        ValueError: for no candidate or estimator, other rows, a single row or user, or a candidate
            that shares no action with the log.

    Example:
        >>> half = torch.full((400,), 0.5).log()
        >>> action = torch.tensor([0, 1]).repeat(200)  # the second of two earns 1, the first 0
        >>> rows = {
        ...     name: LoggedRows(action.double(), torch.tensor(p).log()[action], half)
        ...     for name, p in {"first": [0.9, 0.1], "second": [0.2, 0.8]}.items()
        ... }
        >>> choice = choose_policy(rows)
        >>> choice.policy, round(choice.estimates["second"].value, 6)
        ('second', 0.8)
    """
    _check(candidates)
    columns = [
        {name for name, needed in _NEEDS.items() if getattr(rows, name) is not None}
        for rows in candidates.values()
    ]
    known = set.intersection(*columns)
    if estimators is None:
        lacking = set().union(*(names for need, names in _NEEDS.items() if need not in known))
        estimators = {name: each for name, each in ESTIMATORS.items() if name not in lacking}
    if not estimators:
        raise ValueError("name at least one estimator to choose among")
    reference = reference or (self_normalised_doubly_robust if "value" in known else snips)
    of_reference = _estimates(candidates, reference)
    found = {name: _estimates(candidates, each) for name, each in estimators.items()}
    right, noise = _relative(of_reference, candidates)
    cluster = next(iter(candidates.values())).cluster
    error = {}
    for name, estimates in found.items():
        value, influence = _relative(estimates, candidates)
        bias = (value - right).square().sum().item()
        bias -= CHANCE * _variance(influence - noise, cluster)
        error[name] = max(0.0, bias) + _variance(influence, cluster)
    best = min(error, key=lambda name: error[name] if error[name] == error[name] else torch.inf)
    values = {name: each.value for name, each in found[best].items()}
    return PolicyChoice(max(values, key=lambda name: values[name]), best, found[best], error)


def _estimates(candidates: Mapping[str, LoggedRows], estimator: Estimator) -> dict[str, Estimate]:
    return {name: _estimate(name, rows, estimator) for name, rows in candidates.items()}


def _estimate(name: str, rows: LoggedRows, estimator: Estimator) -> Estimate:
    try:
        return estimator(rows)
    except ValueError as error:
        raise ValueError(f"candidate {name!r}: {error}") from error


def _relative(
    estimates: Mapping[str, Estimate], candidates: Mapping[str, LoggedRows]
) -> tuple[Tensor, Tensor]:
    """Estimates ``[P]`` and rows' deviations ``[P, N]``, less what all candidates share."""
    value = torch.tensor([each.value for each in estimates.values()], dtype=torch.float64)
    parts = []
    for name, each in estimates.items():
        influence = each.influence
        if influence is None:  # the direct method: of its error, what the rows' states make
            model = candidates[name].need("value", "V^ under the policy")
            influence = model - model.mean()
        parts.append(influence)
    deviation = torch.stack(parts)
    if len(parts) == 1:
        return value, deviation
    return value - value.mean(), deviation - deviation.mean(0)


def _variance(influence: Tensor, cluster: Tensor | None) -> float:
    """Summed over the candidates."""
    return sum(standard_error(each, cluster) ** 2 for each in influence)


def _check(candidates: Mapping[str, LoggedRows]) -> None:
    if not candidates:
        raise ValueError("name at least one candidate to choose among")
    first, *others = candidates.items()
    for name, rows in others:
        if not torch.equal(rows.reward, first[1].reward):
            raise ValueError(
                f"candidates {first[0]!r} and {name!r} have other rewards; score all of them on "
                "the same rows in the same order"
            )
        own, other = first[1].cluster, rows.cluster
        if (own is None) != (other is None) or not (own is None or torch.equal(own, other)):
            raise ValueError(
                f"candidates {first[0]!r} and {name!r} have other clusters (users, sessions); "
                "score all of them on the same rows in the same order"
            )
    units = first[1].cluster
    if (len(first[1]) if units is None else len(units.unique())) < 2:
        raise ValueError("a single row (or user) says nothing about spread; two are needed")
