"""How large a kappa on the device can be, known to the host without waiting for it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction
from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.host import reads_are_free

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
        """At least the value of ``kappa``; 1 before, while and after a graph is captured.

        Raises:
            ValueError: where a kappa that is read lies outside (0, 1].
        """
        if torch.compiler.is_compiling() or self._captured or _capturing(kappa):
            return 1.0
        if reads_are_free(kappa) or not self._knows(kappa):
            self._bound, self._pending = float(kappa), None
            check_fraction("kappa", self._bound)
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
