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
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torchrl_drpo_kernels import DRPOStep, Selection, drpo_gaussian_loss, select
from torchrl_drpo_kernels.select.rule import Count, Stat

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.objectives import _batch
from torchrl_drpo.policies.gaussian import DiagonalNormal

#: Steps between two looks at kappa; in between the bound grows by the controller's factor.
_LOOK_EVERY = 16


class KappaCeiling:
    """An upper bound of a kappa that lives on the device, known to the host without waiting.

    The value is copied to pinned memory every few steps and read once the copy has arrived; from
    then on the bound grows by the controller's factor a step. A kappa that somebody else wrote
    (an assignment, a loaded checkpoint) is noticed, by the tensor or by its version, and read at
    once. The replays of a captured step move kappa and leave no trace on the host, so from a
    capture on the bound is 1. It is also 1 on a stream other than the default one, where torch
    wants the steps before a capture to run: they then launch what the capture will, and a kernel's
    first launch, which compiles and loads it, may fail in a capture.
    """

    def __init__(self) -> None:
        self._bound = 1.0
        self._seen: weakref.ref[Tensor] | None = None
        self._version: int | None = None
        self._captured = False
        self._pending: tuple[Tensor, torch.cuda.Event, int] | None = None
        self._steps = 0
        self._controller: AdaptiveKappa | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> KappaCeiling:
        """A copy looks for itself: its buffer has versions of its own."""
        return KappaCeiling()

    def __reduce__(self) -> tuple[type[KappaCeiling], tuple[()]]:
        return KappaCeiling, ()

    def bound(self, kappa: Tensor) -> float:
        """At least the value of ``kappa``; 1 before, while and after a graph is captured."""
        if torch.compiler.is_compiling() or self._captured or _capturing(kappa):
            return 1.0
        if reads_are_free(kappa) or not self._knows(kappa):
            self._bound, self._pending = float(kappa), None
            self._note(kappa)
        elif self._pending is not None and self._pending[1].query():
            value, _, copied_at = self._pending
            self._bound, self._pending = float(value), None
            for _ in range(copied_at, self._steps):
                self._grow()
        if _on_side_stream(kappa):
            return 1.0
        return min(1.0, self._bound * (1 + 1e-5))  # float32 products may round up

    def advance(self, kappa: Tensor, controller: AdaptiveKappa | None) -> None:
        """Takes note that the controller has just moved ``kappa``."""
        if torch.compiler.is_compiling():
            return  # bound() is 1 then
        if _capturing(kappa):
            self._captured = True
            return
        self._controller = controller
        self._grow()
        self._note(kappa)
        self._steps += 1
        if self._pending is None and self._steps % _LOOK_EVERY == 0:
            sent = _sent_to_host(kappa)
            self._pending = sent and (*sent, self._steps)

    def _grow(self) -> None:
        """One step further: by the factor, or up to the lower bound if it began below it."""
        if self._controller is not None:
            low = self._controller.bounds[0]
            self._bound = min(1.0, max(self._bound * self._controller.up, low))

    def _note(self, kappa: Tensor) -> None:
        self._version = kappa._version
        if self._seen is None or self._seen() is not kappa:
            self._seen = weakref.ref(kappa)

    def _knows(self, kappa: Tensor) -> bool:
        """Whether nobody has written to ``kappa`` since the last look or step."""
        seen = self._seen is not None and self._seen() is kappa
        return seen and kappa._version == self._version


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


def _sent_to_host(value: Tensor) -> tuple[Tensor, torch.cuda.Event] | None:
    """A copy on its way to pinned memory, and the event that says when it has arrived."""
    if value.device.type != "cuda":
        return None
    host = torch.empty((), dtype=value.dtype, pin_memory=True)
    host.copy_(value.detach(), non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(value.device))
    return host, event


def _capturing(values: Tensor) -> bool:
    return values.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _on_side_stream(values: Tensor) -> bool:
    """Whether eager steps here may be those before a capture."""
    if values.device.type != "cuda":
        return False
    return torch.cuda.current_stream(values.device) != torch.cuda.default_stream(values.device)
