r"""Estimators of a policy's value from logged sessions.

Notation   w_{0:t} = prod_{u <= t} pi_e(a_u|s_u) / pi_b(a_u|s_u), with w_{0:-1} = 1; r reward; q^
           and V^ a model of the discounted rewards from step t on; means are over the S sessions.

Each returns an :class:`~torchrl_drpo.evaluation.off_policy.Estimate` whose rows are sessions: its
standard error is over sessions or their clusters, and its verdict that of the weights of whole
sessions. Products are made in logarithms.

A session that has ended stays in the denominators of the weighted forms, its weight frozen at what
it was at its last step: it is a session of the policy's as much as any, and earns nothing more.
Leaving it out would divide by the sessions that *the logging policy* kept alive. A truncated one is
frozen too. With sessions of one step every estimator is the one for single actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.estimate import Estimate, estimate_of
from torchrl_drpo.evaluation.off_policy.sequences.sessions import LoggedSessions
from torchrl_drpo.evaluation.off_policy.sequences.weights import (
    diagnose_products,
    plain_weights,
    ratio_of_means,
)


def trajectory_is(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""Trajectory-wise importance sampling, mean of :math:`w_{0:T-1} \sum_t \gamma^t r_t`.

    Unbiased; every reward pays for what was done after it. Source: Precup, Sutton and Singh 2000,
    "Eligibility traces for off-policy policy evaluation".

    Example:
        >>> half = torch.full((400, 2), 0.5).log()
        >>> reward = torch.tensor([0.0, 1.0]).repeat(200).unsqueeze(-1).expand(-1, 2)
        >>> print(trajectory_is(LoggedSessions(reward, half, half)))
        1 [0.9016, 1.098] (usable)
    """
    log_weight = sessions.log_weights[:, -1]
    terms = plain_weights(log_weight) * sessions.returns()
    return _mean_of(sessions, "TIS", terms, confidence)


def weighted_trajectory_is(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""The weighted form, :math:`\sum w_{0:T-1} R / \sum w_{0:T-1}`, R a session's return.

    Biased by O(1/S), within the range of the returns. Source: as :func:`trajectory_is`.
    """
    parts = [(sessions.log_weights[:, -1:], sessions.returns().unsqueeze(-1))]
    return _sum_of(sessions, "WTIS", parts, sessions.discounts[:1], confidence)


def per_decision_is(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""PDIS, mean of :math:`\sum_t \gamma^t w_{0:t} r_t`: a reward pays for what led to it alone.

    Unbiased. Source: Precup, Sutton and Singh 2000, "Eligibility traces for off-policy policy
    evaluation".
    """
    weight = plain_weights(sessions.log_weights)
    terms = (sessions.discounts * weight * sessions.earned()).sum(-1)
    return _mean_of(sessions, "PDIS", terms, confidence)


def weighted_per_decision_is(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""WPDIS, :math:`\sum_t \gamma^t \sum_s w_{0:t} r_t / \sum_s w_{0:t}`, ended sessions frozen.

    Biased by O(1/S); consistent whether or not the policies' sessions have the same lengths.
    Source: Thomas 2015, "Safe reinforcement learning", and Precup, Sutton and Singh 2000.
    """
    parts = [(sessions.log_weights, sessions.earned())]
    return _sum_of(sessions, "WPDIS", parts, sessions.discounts, confidence)


def sequential_direct_method(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""Mean of :math:`\hat V(s_0)`; with a fitted q^, fitted Q evaluation (Le et al. 2019).

    It has no interval, for how wrong the model is cannot be read from its answers.
    """
    value = sessions.need("value", "V^ of each state under the policy")[:, 0].mean().item()
    found = diagnose_products(sessions.log_weights[:, -1], sessions.cluster)
    nan = math.nan
    without = replace(found, relies_on_weights=False)
    return Estimate("DM", value, nan, nan, nan, confidence, "none", without)


def sequential_doubly_robust(sessions: LoggedSessions, *, confidence: float = 0.95) -> Estimate:
    r"""DR, mean of :math:`\sum_t \gamma^t [w_{0:t} (r_t - \hat q_t) + w_{0:t-1} \hat V_t]`.

    Unbiased where the propensities are right, whatever q^ is; cross-fit it
    (:func:`~torchrl_drpo.evaluation.off_policy.sequences.fitted_q.with_fitted_q`).
    Source: Jiang and Li 2016, "Doubly robust off-policy value evaluation for reinforcement
    learning" (arXiv 1511.03722), sec. 4; in this form Thomas and Brunskill 2016 (arXiv 1604.00923).
    """
    residual, value = _residual(sessions)
    weight = plain_weights(sessions.log_weights)
    before = torch.cat([torch.ones_like(weight[:, :1]), weight[:, :-1]], -1)
    terms = (sessions.discounts * (before * value + weight * residual)).sum(-1)
    return _mean_of(sessions, "DR", terms, confidence)


def weighted_sequential_doubly_robust(
    sessions: LoggedSessions, *, confidence: float = 0.95
) -> Estimate:
    r"""WDR: DR with :math:`w_{0:t} / \overline{w_{0:t}}` for each weight, ended sessions frozen.

    Source: Thomas and Brunskill 2016, "Data-efficient off-policy policy evaluation for
    reinforcement learning" (arXiv 1604.00923).
    """
    residual, value = _residual(sessions)
    log_weight = sessions.log_weights
    before = torch.cat([torch.zeros_like(log_weight[:, :1]), log_weight[:, :-1]], -1)
    parts = [(before, value), (log_weight, residual)]
    return _sum_of(sessions, "WDR", parts, sessions.discounts, confidence)


#: By name, every estimator of sequences, in the order of tables.
SEQUENCE_ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "TIS": trajectory_is,
    "WTIS": weighted_trajectory_is,
    "PDIS": per_decision_is,
    "WPDIS": weighted_per_decision_is,
    "DM": sequential_direct_method,
    "DR": sequential_doubly_robust,
    "WDR": weighted_sequential_doubly_robust,
}


def _residual(sessions: LoggedSessions) -> tuple[Tensor, Tensor]:
    """What q^ leaves of each reward, and V^, both ``[S, T]``."""
    prediction = sessions.need("prediction", "a cross-fitted q^ of each logged step")
    value = sessions.need("value", "V^ of each state under the policy")
    return sessions.earned() - prediction, value


def _mean_of(sessions: LoggedSessions, name: str, terms: Tensor, confidence: float) -> Estimate:
    """An estimate that is the mean of one term a session."""
    value = terms.mean().item()
    found = diagnose_products(sessions.log_weights[:, -1], sessions.cluster)
    return estimate_of(
        name, value, terms - value, found, cluster=sessions.cluster, confidence=confidence
    )


def _sum_of(
    sessions: LoggedSessions,
    name: str,
    parts: list[tuple[Tensor, Tensor]],
    discounts: Tensor,
    confidence: float,
) -> Estimate:
    """A discounted sum over steps of ratios of means, each of log-weights and values."""
    found = diagnose_products(sessions.log_weights[:, -1], sessions.cluster)
    value, influence = 0.0, torch.zeros(len(sessions), dtype=torch.float64)
    for log_weight, values in parts:
        ratio, deviation = ratio_of_means(log_weight, values)
        value += (discounts * ratio).sum().item()
        influence += (discounts * deviation).sum(-1)
    return estimate_of(
        name, value, influence, found, cluster=sessions.cluster, confidence=confidence
    )
