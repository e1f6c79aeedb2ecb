"""DRPO's step on an accelerator: selection on the device, work on kept rows only, two ways.

    rows known to be few   select -> gather the kept rows -> policy -> log-prob -> loss
    else                   policy -> (select -> pack -> log-prob -> loss), one op

Nothing is read back to the host. How many rows were kept is known on the device alone, but kappa
moves by at most 2% a step, so an upper bound of it *is* known to the host. Where it lies below
the batch, the policy sees that many rows only, and the ops skip those beyond the exact count: no
encoder runs on rows that are then dropped, which no single op could spare. Where it does not
(ties that share the last places, a graph that is captured or compiled, kappa = 1), the policy
sees every row whatever is done, and the rest is one op where the distribution offers one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torchrl_drpo_kernels import DRPOStep, Selection, drpo_gaussian_loss, select
from torchrl_drpo_kernels.select.rule import Count, Stat

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.objectives import _batch
from torchrl_drpo.policies.gaussian import DiagonalNormal


def select_rows(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    controller: AdaptiveKappa | None,
    rule: dict[str, Any],
) -> Selection:
    """The selection op on a batch of any float type; ``rule`` names weighting, ties and so on."""
    values, number = _as_the_ops_take_them(quality, kappa)
    return select(values, mask, number, **rule, **_numbers_of(controller))


def step_on_all_rows(
    dist: Distribution,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    controller: AdaptiveKappa | None,
    rule: dict[str, Any],
) -> tuple[Tensor, Selection] | None:
    """The loss, divided by the quota, and the selection; ``dist`` is that of the whole batch.

    ``None`` if the distribution has no op: a distribution offers one as
    ``drpo_loss(action, quality, kappa, mask, **rule) -> DRPOStep``.
    """
    run = _op_of(dist)
    if run is None or len(dist.batch_shape) != 1:
        return None
    if dist.event_shape == torch.Size([]) and action.ndim == 2 and action.shape[1] == 1:
        action = action.squeeze(-1)
    values, number = _as_the_ops_take_them(quality, kappa)
    step = run(_dense(action), values, number, mask, **rule, **_numbers_of(controller))
    return step.loss, step.selection


def _op_of(dist: Distribution) -> Callable[..., DRPOStep] | None:
    offered: Callable[..., DRPOStep] | None = getattr(dist, "drpo_loss", None)
    if offered is not None:
        return offered
    plain = type(dist).log_prob in (Independent.log_prob, DiagonalNormal.log_prob)
    base = dist.base_dist if isinstance(dist, Independent) and plain else None
    if type(base) is not Normal:
        return None
    mean, scale = base.loc, base.scale
    if mean.ndim != 2 or len(dist.event_shape) != 1:
        return None
    shared = scale.shape[0] > 1 and scale.stride(0) == 0  # one row behind an expanded view
    return partial(drpo_gaussian_loss, _dense(mean), _dense(scale[0] if shared else scale).log())


def _dense(values: Tensor) -> Tensor:
    """The ops want the numbers of a row side by side, and they nearly always lie so."""
    return values if values.ndim == 0 or values.stride(-1) == 1 else values.contiguous()


def _numbers_of(controller: AdaptiveKappa | None) -> dict[str, Any]:
    if controller is None:
        return {}
    names = ("target_ratio", "bounds", "up", "down")
    return {name: getattr(controller, name) for name in names}


def _as_the_ops_take_them(quality: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    return quality.detach().float().contiguous(), kappa.detach().float().reshape(1)


def most_rows(count: int, bound: float, *, ties_may_crowd: bool) -> int:
    """How many rows a selection can emit: all of them where ties share the last places."""
    if ties_may_crowd or bound >= 1.0:
        return count
    return min(count, math.ceil(count * bound + 0.5))  # rounding half up never exceeds this


def kept_log_prob(dist: Distribution, action: Tensor, n_rows: Tensor, batch: torch.Size) -> Tensor:
    """Log-prob of the first ``n_rows`` rows; what stands behind them must not be used.

    A distribution with ``leading_log_prob(action, n_rows)`` spends nothing on the rows behind.
    """
    leading = getattr(dist, "leading_log_prob", None)
    if leading is not None:
        return leading(action, n_rows)
    return _batch.action_log_prob(dist, action, batch)


def report_of(selection: Selection, kappa: Tensor) -> dict[str, Tensor]:
    """The loss's diagnostics from the op's result vectors."""
    stats, counts = selection.stats, selection.counts
    valid = counts[Count.N_VALID].clamp_min(1)
    return {
        "kappa": kappa,
        "threshold": stats[Stat.THRESHOLD],
        "kept_fraction": counts[Count.QUOTA] / valid,
        "effective_sample_size": stats[Stat.EFFECTIVE_SAMPLE_SIZE],
        "kept_mean_quality": stats[Stat.KEPT_MEAN],
    }
