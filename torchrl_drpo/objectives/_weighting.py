"""What a rule says of a batch, and what it sees once the policy was asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class Weighting:
    """What a rule says of a batch; every tensor is detached.

    Attributes:
        weight: w of each sample, ``[*B]`` (``[B]`` at trajectory level). Zero means: no work.
        mass: how much each sample counts in the divisor of the mean, of ``weight``'s shape.
        report: 0-d diagnostics that the loss returns beside ``loss_actor``.
    """

    weight: Tensor
    mass: Tensor
    report: dict[str, Tensor]

    def with_report(self, **entries: Tensor) -> Weighting:
        """The same weights with more to tell."""
        return replace(self, report={**self.report, **entries})

    def take(self, rows: Tensor) -> Weighting:
        """What is said of these rows."""
        weight, mass = self.weight.index_select(0, rows), self.mass.index_select(0, rows)
        return Weighting(weight, mass, self.report)


@dataclass(frozen=True)
class WeightingOfRows(Weighting):
    """What a rule says of the only rows with weight, where it knows which they are.

    Attributes:
        rows: indices of the rows that ``weight`` and ``mass`` speak of, at least one.
        total: the mass of the whole batch, 0-d.
    """

    rows: Tensor
    total: Tensor

    def everywhere(self, count: int) -> Tensor:
        """The weights of the first ``count`` rows of the batch."""
        return self.weight.new_zeros(count).index_put_((self.rows,), self.weight)


@dataclass(frozen=True)
class Scored:
    """The logged actions under the current policy, as ``WeightedLoss._reweigh`` sees them.

    Attributes:
        dist: the policy's distribution for the rows that were scored.
        action: their logged actions.
        log_prob: log-probability of these actions, detached, of the weights' shape.
        mask: which steps of these rows are valid, ``None`` for all.
        inputs: the policy's inputs for these rows, zero at invalid steps.
        data: the whole tensordict that the loss was called with.
        rows: indices of the scored rows in ``data``, or ``None`` for all of them.
    """

    dist: Distribution
    action: Tensor
    log_prob: Tensor
    mask: Tensor | None
    inputs: TensorDictBase
    data: TensorDictBase
    rows: Tensor | None

    @property
    def batch(self) -> torch.Size:
        """Shape of the scored rows, ``[*B]``."""
        return self.inputs.shape

    def take(self, values: Tensor) -> Tensor:
        """The entries of a batch-shaped tensor that belong to the scored rows."""
        return values if self.rows is None else values[self.rows]
