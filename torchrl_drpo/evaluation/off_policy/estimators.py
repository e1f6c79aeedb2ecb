r"""Estimators of a policy's value from single logged actions.

Notation   w = pi_e(a|x) / pi_b(a|x), r reward, q^ a cross-fitted reward model, V^ its expectation
           under the policy, c the action's group; means are over the N rows.

Each returns an :class:`~torchrl_drpo.evaluation.off_policy.estimate.Estimate`: the number with an
interval for what the estimator converges to, and the verdict of its weights. Those that divide by
the weights' mean have the standard error of a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import weights as control
from torchrl_drpo.evaluation.off_policy.diagnostics import Diagnostics, diagnose
from torchrl_drpo.evaluation.off_policy.estimate import (
    Estimate,
    estimate_of,
    with_gamma_interval,
)
from torchrl_drpo.evaluation.off_policy.intervals import cluster_sums
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows


def ips(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""Inverse propensity scoring, mean of w r (Horvitz and Thompson 1952). Unbiased.

    Needs that the logging policy could take whatever the policy takes; a hole in its support is
    lost silently, but for a mean weight below 1.

    Example:
        >>> half = torch.full((400,), 0.5).log()
        >>> rows = LoggedRows(torch.tensor([0.0, 1.0]).repeat(200), half, half)
        >>> print(ips(rows))
        0.5 [0.4508, 0.5492] (usable)
    """
    return _weighted(rows, "IPS", rows.log_ratio.exp(), confidence)


def clipped_ips(rows: LoggedRows, *, cap: float = 5.0, confidence: float = 0.95) -> Estimate:
    """Mean of min(w, cap) r (Ionides 2008). Low for rewards of at least 0, by E[(w - cap)+ r].

    The interval is for the clipped value. With rewards of at least 0 and few events it is the gamma
    interval of :func:`~torchrl_drpo.evaluation.off_policy.intervals.gamma_interval`.
    """
    used = control.clipped_weights(rows.log_ratio, cap)
    found = _weighted(rows, "clipped IPS", used, confidence)
    if (rows.reward < 0).any():
        return found
    return with_gamma_interval(found, used * rows.reward, _largest(rows, used, cap))


def snips(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""Self-normalised, :math:`\sum w r / \sum w` (Swaminathan and Joachims 2015).

    Within the rewards' range, and moved by a constant as they are; biased by O(1/N).
    """
    w = _scaled(rows.log_ratio)
    value = (w @ rows.reward / w.sum()).item()
    influence = w * (rows.reward - value) / w.mean()
    found = _diagnosed(rows)
    return estimate_of(
        "SNIPS", value, influence, found, cluster=rows.cluster, confidence=confidence
    )


def direct_method(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    """Mean of V^. It has no interval: how wrong the model is cannot be read from its answers.

    Refit the model on resampled rows for one, and mind that it still says nothing of its bias.
    """
    value = rows.need("value", "the reward model's expectation under the policy")
    found = replace(_diagnosed(rows), relies_on_weights=False)
    nan = math.nan
    return Estimate("DM", value.mean().item(), nan, nan, nan, confidence, "none", found)


def doubly_robust(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""DR, mean of V^ + w (r - q^) (Dudik, Langford and Li 2011).

    Unbiased where the propensities are right, or else where the model is.
    """
    return _corrected(rows, "DR", rows.log_ratio.exp(), confidence)


def self_normalised_doubly_robust(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""SNDR, mean of V^ plus :math:`\sum w (r - q^) / \sum w`."""
    value, residual = rows.need("value", "V^ under the policy"), rows.residual()
    w = _scaled(rows.log_ratio)
    correction = (w @ residual / w.sum()).item()
    influence = value - value.mean() + w * (residual - correction) / w.mean()
    return estimate_of(
        "SNDR",
        value.mean().item() + correction,
        influence,
        _diagnosed(rows),
        cluster=rows.cluster,
        confidence=confidence,
    )


def switch_doubly_robust(
    rows: LoggedRows, *, cap: float = 10.0, confidence: float = 0.95
) -> Estimate:
    """Switch-DR: DR where w is at most ``cap``, the model elsewhere (Wang et al. 2017)."""
    used = control.switched_weights(rows.log_ratio, cap)
    return _corrected(rows, "Switch-DR", used, confidence)


def optimistic_shrinkage(
    rows: LoggedRows, *, strength: float = 100.0, confidence: float = 0.95
) -> Estimate:
    r"""DRos: DR with weights :math:`\lambda w / (w^2 + \lambda)` (Su et al. 2020)."""
    return _corrected(rows, "DRos", control.shrunk_weights(rows.log_ratio, strength), confidence)


def subgaussian_ips(
    rows: LoggedRows, *, strength: float = 0.05, confidence: float = 0.95
) -> Estimate:
    r"""IPS with weights :math:`w / (1 - \lambda + \lambda w)` (Metelli et al. 2021)."""
    used = control.subgaussian_weights(rows.log_ratio, strength)
    return _weighted(rows, "sub-Gaussian IPS", used, confidence)


def subgaussian_doubly_robust(
    rows: LoggedRows, *, strength: float = 0.05, confidence: float = 0.95
) -> Estimate:
    """DR with the same weights."""
    used = control.subgaussian_weights(rows.log_ratio, strength)
    return _corrected(rows, "sub-Gaussian DR", used, confidence)


def marginalised_ips(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""MIPS, mean of w(x, c) r with the groups' weights (Saito and Joachims 2022).

    Unbiased where an item matters through its group alone; far less variance where items are many.
    With groups of one item it is IPS.
    """
    log_ratio = rows.log_group_ratio
    return _weighted(rows, "MIPS", log_ratio.exp(), confidence, log_ratio)


def off_cem(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    r"""OffCEM, mean of V^ + w(x, c) (r - q^) (Saito, Ren and Joachims 2023).

    Unbiased where the model has the differences *within* a group right; support is needed of groups
    only. With groups of one item it is DR.
    """
    log_ratio = rows.log_group_ratio
    return _corrected(rows, "OffCEM", log_ratio.exp(), confidence, log_ratio)


#: By name, every estimator, in the order of tables.
ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "IPS": ips,
    "clipped IPS": clipped_ips,
    "SNIPS": snips,
    "DM": direct_method,
    "DR": doubly_robust,
    "SNDR": self_normalised_doubly_robust,
    "Switch-DR": switch_doubly_robust,
    "DRos": optimistic_shrinkage,
    "sub-Gaussian IPS": subgaussian_ips,
    "sub-Gaussian DR": subgaussian_doubly_robust,
    "MIPS": marginalised_ips,
    "OffCEM": off_cem,
}


def _weighted(
    rows: LoggedRows,
    name: str,
    used: Tensor,
    confidence: float,
    log_ratio: Tensor | None = None,
) -> Estimate:
    """Mean of the used weights times the rewards."""
    return _mean_of(rows, name, used * rows.reward, used, confidence, log_ratio)


def _corrected(
    rows: LoggedRows,
    name: str,
    used: Tensor,
    confidence: float,
    log_ratio: Tensor | None = None,
) -> Estimate:
    """The model's value, corrected by weighted residuals."""
    value = rows.need("value", "the reward model's expectation under the policy")
    terms = value + used * rows.residual()
    return _mean_of(rows, name, terms, used, confidence, log_ratio)


def _mean_of(
    rows: LoggedRows,
    name: str,
    terms: Tensor,
    used: Tensor,
    confidence: float,
    log_ratio: Tensor | None,
) -> Estimate:
    value = terms.mean().item()
    return estimate_of(
        name,
        value,
        terms - value,
        _diagnosed(rows, used, log_ratio),
        cluster=rows.cluster,
        confidence=confidence,
    )


def _diagnosed(
    rows: LoggedRows, used: Tensor | None = None, log_ratio: Tensor | None = None
) -> Diagnostics:
    """What the weights say: of items, or of groups where ``log_ratio`` is theirs."""
    of_groups = log_ratio is not None
    return diagnose(
        (rows.log_ratio if log_ratio is None else log_ratio).exp(),
        used,
        reward=rows.reward,
        cluster=rows.cluster,
        never_logged=rows.never_logged_group if of_groups else rows.never_logged,
        fitted=rows.fitted,
        log_rows=rows.log_rows,
    )


def _scaled(log_ratio: Tensor) -> Tensor:
    """Weights up to a common factor, which a ratio does not see; no overlap gives NaN nowhere."""
    top = log_ratio.max()
    return (log_ratio - (top if top > -torch.inf else 0.0)).exp()


def _largest(rows: LoggedRows, used: Tensor, cap: float) -> float:
    """The most that one more event could add: a clipped row, or the heaviest cluster."""
    top = rows.reward.max().item() * min(cap, used.max().item())
    return max(top, cluster_sums(used * rows.reward, rows.cluster).max().item())
