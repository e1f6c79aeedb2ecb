"""The objectives that can be asked for by name when a catalogue policy is trained."""

from __future__ import annotations

import math
from collections.abc import Callable

from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule

from torchrl_drpo.functional.tapers import ExponentialTaper
from torchrl_drpo.objectives import (
    AdaptiveBCLoss,
    AsymRELoss,
    AWRLoss,
    BehaviorCloningLoss,
    CRRLoss,
    DRPOLoss,
    GBPOLoss,
    RepulsiveLoss,
)
from torchrl_drpo.policies.catalogue import catalogue_policy

#: From an actor to the loss that trains it.
LossFactory = Callable[[ProbabilisticActor], LossModule]


def _tapered(actor: ProbabilisticActor) -> LossModule:
    # Half the surprisal of a uniform choice: a skipped item is pushed down while it is clearly
    # likelier than chance, and let go once it is not.
    num_items = catalogue_policy(actor).items.shape[0]
    return RepulsiveLoss(actor, taper=ExponentialTaper(threshold=0.5 * math.log(num_items)))


OBJECTIVES: dict[str, LossFactory] = {
    "bc": BehaviorCloningLoss,
    "drpo": DRPOLoss,
    "drpo-exponential": lambda actor: DRPOLoss(actor, weighting="exponential"),
    "drpo-kl": lambda actor: DRPOLoss(actor, weighting="kl"),
    "adaptive-bc": AdaptiveBCLoss,
    "positive-only": lambda actor: RepulsiveLoss(actor, negative_scale=0.0),
    "signed": RepulsiveLoss,
    "tapered": _tapered,
    "awr": lambda actor: AWRLoss(actor, temperature=0.3),  # of a quality in [0, 1]
    "crr": CRRLoss,
    "asymre": AsymRELoss,
    "gbpo": GBPOLoss,
}


def make_objective(name: str, actor: ProbabilisticActor) -> LossModule:
    """The named objective on an actor.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:
        >>> from torchrl_drpo.policies import make_catalogue_actor
        >>> type(make_objective("drpo", make_catalogue_actor(10))).__name__
        'DRPOLoss'
    """
    if name not in OBJECTIVES:
        raise ValueError(f"no objective {name!r}; there are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](actor)
