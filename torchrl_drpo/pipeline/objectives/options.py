"""The options of every objective that has a name: plain numbers and words, checked by its loss.

Nothing heavy is imported: the command line reads these for ``--help``. Their defaults are those of
the losses, so that an option that is not given is the loss's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class ObjectiveOptions:
    """Base of all options; plain behaviour cloning has none."""

    def to_json(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON data.

        Example:
            >>> DRPOOptions(kappa=0.2).to_json()
            {'kappa': 0.2}
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            field.name: given[field.name]
            for field in fields(self)
            if given[field.name] != field.default
        }


@dataclass(frozen=True)
class TaperOptions(ObjectiveOptions):
    """What lets a negative fade with its remoteness from the policy.

    Attributes:
        taper: its shape (:mod:`torchrl_drpo.functional.tapers`); none leaves negatives as they are.
        taper_strength: how fast it falls beyond the threshold; not of a cutoff.
        taper_scale: remoteness is divided by it; not of a cutoff.
        taper_threshold: where it begins; ``None`` takes one standard deviation an entry for
            policies over vectors, half the surprisal of a uniform choice for those over items.
    """

    taper: Literal["none", "exponential", "reciprocal", "cutoff"] = "none"
    taper_strength: float = 1.0
    taper_scale: float = 1.0
    taper_threshold: float | None = None


@dataclass(frozen=True)
class DRPOOptions(TaperOptions):
    """Of :class:`~torchrl_drpo.DRPOLoss`.

    Attributes:
        kappa: fraction to keep, in (0, 1]; ``None`` adapts it.
        kappa_initial: where the adaptive kappa starts.
        kappa_bounds: smallest and largest adaptive kappa.
        target_ratio: spread of the kept rows beside the batch's that it moves towards.
        weighting: of the kept rows.
        temperature: of the exponential and kl weightings.
        ties: who fills the last places among equals.
        normalize: divide linear weights by the kept rows' standard deviation.
        negative_scale: factor on the rejected rows' repulsion; they repel where there is a taper.
    """

    kappa: float | None = None
    kappa_initial: float = 0.5
    kappa_bounds: tuple[float, float] = (0.05, 1.0)
    target_ratio: float = 0.5
    weighting: Literal["linear", "uniform", "exponential", "kl"] = "linear"
    temperature: float = 0.05
    ties: Literal["fraction", "first"] = "fraction"
    normalize: bool = True
    negative_scale: float = 1.0


@dataclass(frozen=True)
class RepulsiveOptions(TaperOptions):
    """Of :class:`~torchrl_drpo.RepulsiveLoss`.

    Attributes:
        negative_scale: factor on the negatives; 0 is positive-only learning.
        baseline: what rewards are compared with.
        normalize: divide advantages by the batch's standard deviation.
    """

    negative_scale: float = 1.0
    baseline: Literal["mean", "min"] | float = "mean"
    normalize: bool = False


@dataclass(frozen=True)
class AWROptions(ObjectiveOptions):
    """Of :class:`~torchrl_drpo.AWRLoss`.

    Attributes:
        temperature: divides the advantages; .3 suits a quality in [0, 1].
        max_weight: cap of a weight; ``None`` for none.
        self_normalize: scale the weights of a batch to mean 1 before the cap.
        baseline: what rewards are compared with.
    """

    temperature: float = 0.3
    max_weight: float | None = 20.0
    self_normalize: bool = False
    baseline: Literal["mean", "min"] | float = "mean"


@dataclass(frozen=True)
class CRROptions(ObjectiveOptions):
    """Of :class:`~torchrl_drpo.CRRLoss` on logged rewards.

    Attributes:
        mode: rows above the baseline alike, or exponentially in the advantage.
        temperature: of the exponential mode.
        max_weight: cap of a weight.
    """

    mode: Literal["binary", "exponential"] = "binary"
    temperature: float = 1.0
    max_weight: float = 20.0


@dataclass(frozen=True)
class AsymREOptions(ObjectiveOptions):
    """Of :class:`~torchrl_drpo.AsymRELoss`.

    Attributes:
        shift: of the baseline from the mean reward.
        negative_weight: factor on the negatives.
        normalize: divide advantages by the batch's standard deviation.
    """

    shift: float = 0.0
    negative_weight: float = 1.0
    normalize: bool = False


@dataclass(frozen=True)
class GBPOOptions(ObjectiveOptions):
    """Of :class:`~torchrl_drpo.GBPOLoss`.

    Attributes:
        baseline: what rewards are compared with.
        normalize: divide advantages by the batch's standard deviation.
        ratio: of an action's whole probability, or the geometric mean over its choices (the codes
            of a semantic ID, the places of a slate).
    """

    baseline: Literal["mean", "min"] | float = "mean"
    normalize: bool = False
    ratio: Literal["product", "geometric_mean"] = "product"


@dataclass(frozen=True)
class GuidedOptions(ObjectiveOptions):
    """Of :class:`~torchrl_drpo.GuidedLoss`.

    Attributes:
        guidance: weight of the climb beside the cloning.
        normalize: divide advantages by the batch's standard deviation.
    """

    guidance: float = 1.0
    normalize: bool = True


@dataclass(frozen=True)
class TiltOptions(ObjectiveOptions):
    """Of :func:`~torchrl_drpo.policies.tilted.make_tilted_actor`, at serving.

    Attributes:
        tau: temperature of exp(Q / tau), in units of the quality; ``None`` takes a third of the
            standard deviation of the training rows' quality. Of policies over item vectors there is
            none: they have ``--uphill-step``.
    """

    tau: float | None = None

    def __post_init__(self) -> None:
        if self.tau is not None and not 0 < self.tau < math.inf:
            raise ValueError(f"tau must be a finite number above 0, got {self.tau}")


@dataclass(frozen=True)
class ConditionOptions(ObjectiveOptions):
    """Of a policy that is conditioned on quality.

    Attributes:
        guidance: how far it is guided away from the worst level, at serving; 0 for not at all.
        unknown: share of the training rows whose level is hidden.
    """

    guidance: float = 1.0
    unknown: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be a finite number of at least 0, got {self.guidance}")
        if not 0 <= self.unknown < 1:
            raise ValueError(f"unknown must lie in [0, 1), got {self.unknown}")
