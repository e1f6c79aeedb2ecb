"""What an objective takes from a batch as a whole, and of which rows the batch consists.

A rule for the weights asks for thresholds, means, deviations and sums. Of one process they are the
pure functions of :mod:`torchrl_drpo.functional` (:class:`WholeBatch`). Where the rows of several
ranks are one batch (:class:`~torchrl_drpo.distributed.over_ranks.BatchOverRanks`), every rank gets
the numbers of them all, one without any row too. Whichever it is, a rule asks the same questions
in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchrl_drpo.functional import reductions
from torchrl_drpo.functional.diagnostics import effective_sample_size, negative_mass_ratio
from torchrl_drpo.functional.dro_programs import kl_dro_weights
from torchrl_drpo.functional.masks import filled
from torchrl_drpo.functional.selection import TopSelection, select_top
from torchrl_drpo.functional.weights import exponential_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from torchrl_drpo.distributed.group import Over


class WholeBatch:
    """The rows of this process are the whole batch."""

    #: whether there are other ranks to ask
    among_ranks: bool = False

    @property
    def group(self) -> ProcessGroup | None:
        """The process group of these ranks."""
        return None

    def select_top(self, quality: Tensor, kappa: Tensor, **options: Any) -> TopSelection:
        """See :func:`~torchrl_drpo.functional.selection.select_top`."""
        return select_top(quality, kappa, **options)

    def kl_weights(
        self, quality: Tensor, kappa: Tensor, temperature: float, mask: Tensor | None
    ) -> Tensor:
        """See :func:`~torchrl_drpo.functional.dro_programs.kl_dro_weights`."""
        return kl_dro_weights(quality, kappa, temperature, mask)

    def exponential_weights(
        self, advantage: Tensor, *, mask: Tensor | None, normalize: bool, **rule: Any
    ) -> Tensor:
        """See :func:`~torchrl_drpo.functional.weights.exponential_weights`."""
        return exponential_weights(advantage, mask=mask, normalize=normalize, **rule)

    def centred(self, values: Tensor, mass: Tensor | None = None) -> Tensor:
        """See :func:`~torchrl_drpo.functional.reductions.centred`."""
        return reductions.centred(values, mass)

    def std(self, values: Tensor, mass: Tensor | None = None) -> Tensor:
        """The sample standard deviation, 0-d."""
        return reductions.weighted_moments(values, mass)[1]

    def minimum(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """The smallest valid value, 0-d."""
        return filled(values, mask, torch.inf).min()

    def count(self, values: Tensor, mask: Tensor | None) -> Tensor | int:
        """Valid rows, at least 1."""
        return values.numel() if mask is None else mask.sum().clamp_min(1)

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over this process's rows as sums over the batch's, each of its own shape."""
        return parts

    def effective_sample_size(self, weight: Tensor) -> Tensor:
        """See :func:`~torchrl_drpo.functional.diagnostics.effective_sample_size`."""
        return effective_sample_size(weight)

    def negative_mass_ratio(self, weight: Tensor, *, dim: int | None = None) -> Tensor:
        """See :func:`~torchrl_drpo.functional.diagnostics.negative_mass_ratio`."""
        return negative_mass_ratio(weight, dim=dim)

    def loss(self, share: Tensor) -> Tensor:
        """The batch's loss from what this process's rows contribute."""
        return share


def whole_batch(over: Over | None) -> WholeBatch:
    """The batch over these ranks; of this process alone without any."""
    if over is None:
        return WholeBatch()
    from torchrl_drpo.distributed.over_ranks import BatchOverRanks  # not every torch has ranks

    return BatchOverRanks(over)
