"""DRPO's negative branch: what repels beside the filter, and how strongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.distributed.whole_batch import WholeBatch
from torchrl_drpo.functional.selection import TopSelection
from torchrl_drpo.objectives import _batch
from torchrl_drpo.objectives._remoteness import (
    RemotenessKind,
    check_negative_scale,
    check_remoteness_kind,
    remoteness_and_score,
    taper_negatives,
)
from torchrl_drpo.objectives._weighting import Scored, Weighting

#: What a loss with a negative branch reports beside the rest.
REPORT = ("negative_mass_ratio", "effective_negative_mass_ratio", "taper_active_fraction")


@dataclass(frozen=True)
class NegativeBranch:
    """The options of the branch; see :class:`~torchrl_drpo.objectives.drpo.DRPOLoss`."""

    taper: Callable[[Tensor], Tensor] | None
    key: NestedKey | None
    scale: float
    remoteness: RemotenessKind

    def __post_init__(self) -> None:
        if self.taper is not None and not callable(self.taper):
            raise TypeError(f"negative_taper must be callable, got {type(self.taper).__name__}")
        check_negative_scale(self.scale)
        check_remoteness_kind(self.remoteness)

    @property
    def active(self) -> bool:
        """Whether anything repels."""
        return self.taper is not None or self.key is not None

    def check_weighting(self, weighting: str) -> None:
        """Raises ``ValueError`` where the weighting leaves nothing to repel."""
        if weighting == "kl" and self.active and self.key is None:
            raise ValueError(
                "weighting='kl' rejects no row, so nothing is left to repel; mark dislikes with "
                "negative_key, or choose another weighting"
            )

    def dislikes(
        self, tensordict: TensorDictBase, samples: torch.Size, mask: Tensor | None, owner: str
    ) -> Tensor | None:
        """Valid samples that are marked as explicit dislikes; ``None`` without a key."""
        if self.key is None:
            return None
        marked = _batch.read_entry(tensordict, self.key, "negative_key", owner)
        if marked.dtype != torch.bool:
            raise TypeError(f"dislikes in {self.key!r} must be booleans, got {marked.dtype}")
        if len(samples) < tensordict.ndim and marked.shape[: tensordict.ndim] == tensordict.shape:
            marked = marked.flatten(1).any(1)  # one disliked step is a disliked trajectory
        marked = _batch.per_step(marked, samples, "dislikes", self.key)
        return marked if mask is None else marked & mask

    def repel_dislikes(self, weight: Tensor, disliked: Tensor) -> Tensor:
        """The weights with -scale on what was disliked."""
        return torch.where(disliked, -self.scale, weight)

    def repel_rejected(
        self, weight: Tensor, advantage: Tensor | None, top: TopSelection, mask: Tensor | None
    ) -> Tensor:
        """The weights with repulsion on what was not kept: its (negative) advantage, or -1."""
        rejected = top.mass == 0 if mask is None else (top.mass == 0) & mask
        if advantage is None:
            return self.repel_dislikes(weight, rejected)
        return torch.where(rejected, self.scale * advantage, weight)

    def tapered(self, weighting: Weighting, scored: Scored, whole: WholeBatch) -> Weighting:
        """The weights with negatives tapered by their remoteness from the current policy."""
        if self.taper is None:
            return weighting
        distance, _ = remoteness_and_score(
            scored.dist, scored.action, scored.log_prob, scored.batch, self.remoteness, scored.mask
        )
        weight, active = taper_negatives(weighting.weight, self.taper, distance, whole)
        weighting = weighting.with_report(
            effective_negative_mass_ratio=whole.negative_mass_ratio(weight),
            taper_active_fraction=active,
        )
        return replace(weighting, weight=weight)


def report_of(weight: Tensor, whole: WholeBatch) -> dict[str, Tensor]:
    """The report before any taper has been asked."""
    rho = whole.negative_mass_ratio(weight)
    return dict(zip(REPORT, (rho, rho, torch.zeros_like(rho)), strict=True))
