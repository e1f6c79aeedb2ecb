"""The objectives that can be asked for by name when a catalogue policy is trained.

Those of ``MODELLED_OBJECTIVES`` first fit a cross-fitted reward model to the training rows:

- ``taper-q``: the tapered signed loss on predicted in place of logged rewards. The prediction is
  what rows of this kind are worth, without the luck of the one row; that matters most where a row
  repels.
- ``positive-only-q``, ``drpo-q``: their namesakes on the predictions.
- ``guided``: positive-only on the logged rewards, and ascent on the model's exact expectation
  under the policy. It repels nothing.

A signed loss measures rows against the batch's mean: a state in which everything is worth little
(a tab that nobody watches) repels all that was shown there, and is then served badly. Where such
states are served too, compare policies within them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
    GuidedLoss,
    RepulsiveLoss,
)
from torchrl_drpo.policies.catalogue import catalogue_policy
from torchrl_drpo.rewards import CrossFittedReward

#: From an actor to the loss that trains it.
LossFactory = Callable[[ProbabilisticActor], LossModule]
#: The same with a reward model of the log, for batches that it has annotated.
ModelledLossFactory = Callable[[ProbabilisticActor, CrossFittedReward], LossModule]


def _taper(actor: ProbabilisticActor) -> ExponentialTaper:
    # Half the surprisal of a uniform choice: a skipped item is pushed down while it is clearly
    # likelier than chance, and let go once it is not.
    num_items = catalogue_policy(actor).items.shape[0]
    return ExponentialTaper(threshold=0.5 * math.log(num_items))


def _tapered(actor: ProbabilisticActor, **options: Any) -> LossModule:
    return RepulsiveLoss(actor, taper=_taper(actor), **options)


def _drpo_tapered(actor: ProbabilisticActor) -> LossModule:
    # On KuaiRand the most lift of all that kept nine tenths of BC's hits on the tuning days.
    return DRPOLoss(actor, kappa=0.5, negative_taper=_taper(actor), negative_scale=0.3)


def _on_predictions(loss: LossModule, key: str = "reward") -> LossModule:
    loss.set_keys(**{key: "predicted_reward"})
    return loss


OBJECTIVES: dict[str, LossFactory] = {
    "bc": BehaviorCloningLoss,
    "drpo": DRPOLoss,
    "drpo-exponential": lambda actor: DRPOLoss(actor, weighting="exponential"),
    "drpo-kl": lambda actor: DRPOLoss(actor, weighting="kl"),
    "drpo-tapered": _drpo_tapered,
    "adaptive-bc": AdaptiveBCLoss,
    "positive-only": lambda actor: RepulsiveLoss(actor, negative_scale=0.0),
    "signed": RepulsiveLoss,
    "tapered": _tapered,
    "awr": lambda actor: AWRLoss(actor, temperature=0.3),  # of a quality in [0, 1]
    "crr": CRRLoss,
    "asymre": AsymRELoss,
    "gbpo": GBPOLoss,
}

# Out-of-fold predictions are the log's rewards without most of their noise: a skipped row of an
# item that others watch is no longer a negative, nor a lucky row of a poor one a positive.
MODELLED_OBJECTIVES: dict[str, ModelledLossFactory] = {
    "guided": GuidedLoss,
    "taper-q": lambda actor, _: _on_predictions(_tapered(actor, normalize=True)),
    "positive-only-q": lambda actor, _: _on_predictions(RepulsiveLoss(actor, negative_scale=0.0)),
    "drpo-q": lambda actor, _: _on_predictions(DRPOLoss(actor), "quality"),
}
#: All that can be asked for.
NAMES: tuple[str, ...] = (*OBJECTIVES, *MODELLED_OBJECTIVES)


def make_objective(
    name: str, actor: ProbabilisticActor, reward_model: CrossFittedReward | None = None
) -> LossModule:
    """The named objective on an actor.

    Args:
        name: a key of ``OBJECTIVES`` or ``MODELLED_OBJECTIVES``.
        actor: what it trains.
        reward_model: of the log; for the names of ``MODELLED_OBJECTIVES`` only.

    Raises:
        ValueError: for an unknown name (the message lists the known ones), or one that needs a
            reward model and has none.

    Example:
        >>> from torchrl_drpo.policies import make_catalogue_actor
        >>> type(make_objective("drpo", make_catalogue_actor(10))).__name__
        'DRPOLoss'
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name](actor)
    if name not in MODELLED_OBJECTIVES:
        raise ValueError(f"no objective {name!r}; there are {', '.join(NAMES)}")
    if reward_model is None:
        raise ValueError(f"objective {name!r} needs the log's reward model, got none")
    return MODELLED_OBJECTIVES[name](actor, reward_model)
