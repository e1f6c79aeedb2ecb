"""The objectives that can be asked for by name when a policy is trained on a log.

Those of ``MODELLED_OBJECTIVES`` first fit a cross-fitted reward model to the training rows:

- ``taper-q``: the tapered signed loss on predicted in place of logged rewards. The prediction is
  what rows of this kind are worth, without the luck of the one row; that matters most where a row
  repels.
- ``positive-only-q``, ``drpo-q``: their namesakes on the predictions.
- ``taper-a``, ``positive-only-a``, ``drpo-a``: their namesakes on A = Q - V, the prediction minus
  that of a model which reads the state alone.
- ``guided``: positive-only on the logged rewards, and ascent on the model's exact expectation
  under the policy. It repels nothing. For catalogue policies only.
- ``uphill``, ``uphill-tapered``: positive-only and the tapered signed loss on actions that were
  moved up the model's slope (:func:`~torchrl_drpo.rewards.uphill_log`). For policies over item
  vectors only: an item number has no direction to move in.

Objectives on rewards, logged or predicted (``-q``), compare all rows of a batch with each other: a
state in which everything is worth little (a tab that nobody watches) repels, or drops, all that was
shown there, and is then served badly. Those on advantages (``-a``) compare a row with what its own
state leads one to expect, so every state learns its better items; a row counts for nothing more
where things go well anyway.
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
from torchrl_drpo.objectives._remoteness import RemotenessKind
from torchrl_drpo.policies.catalogue import catalogue_policy
from torchrl_drpo.policies.gaussian import DiagonalNormal
from torchrl_drpo.rewards import CrossFittedReward

#: From an actor to the loss that trains it.
LossFactory = Callable[[ProbabilisticActor], LossModule]
#: The same with a reward model of the log, for batches that it has annotated.
ModelledLossFactory = Callable[[ProbabilisticActor, CrossFittedReward], LossModule]


def _taper(actor: ProbabilisticActor) -> tuple[ExponentialTaper, RemotenessKind]:
    """The taper of a policy, and what it takes for remoteness."""
    if is_gaussian(actor):  # one sigma from the mean in every entry, as in the reproduction
        return ExponentialTaper(threshold=1.0), "per_dimension"
    # Half the surprisal of a uniform choice: a skipped item is pushed down while it is clearly
    # likelier than chance, and let go once it is not.
    num_items = catalogue_policy(actor).items.shape[0]
    return ExponentialTaper(threshold=0.5 * math.log(num_items)), "auto"


def _tapered(actor: ProbabilisticActor, **options: Any) -> LossModule:
    taper, remoteness = _taper(actor)
    return RepulsiveLoss(actor, taper=taper, remoteness=remoteness, **options)


def _drpo_tapered(actor: ProbabilisticActor) -> LossModule:
    # On KuaiRand the most lift of all that kept nine tenths of BC's hits on the tuning days.
    taper, remoteness = _taper(actor)
    return DRPOLoss(
        actor, kappa=0.5, negative_taper=taper, negative_scale=0.3, remoteness=remoteness
    )


def _reading(loss: LossModule, **keys: str) -> LossModule:
    loss.set_keys(**keys)
    return loss


def _on_advantages(loss: RepulsiveLoss) -> LossModule:
    # An advantage that is given is taken as it is: no mean of the batch is subtracted again. The
    # reward's key is the same, so that rows without the column are an error, and are not measured
    # by their logged rewards instead.
    return _reading(loss, advantage="predicted_advantage", reward="predicted_advantage")


def _drpo_on_advantages(actor: ProbabilisticActor) -> LossModule:
    # The quota goes to the rows that exceed their own state's expectation most: to many where the
    # choice of the item matters, to few where it does not, whatever the state is worth. Linear
    # weights are A - nu, distances from the K-th best advantage: the zero of A plays no part, and
    # while kappa is above the share of rows that beat their state (about a half) nu is below 0
    # and some rows that fall short of it are imitated too, weakly.
    return _reading(DRPOLoss(actor), quality="predicted_advantage")


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
    "taper-q": lambda actor, _: _reading(
        _tapered(actor, normalize=True), reward="predicted_reward"
    ),
    "positive-only-q": lambda actor, _: _reading(
        RepulsiveLoss(actor, negative_scale=0.0), reward="predicted_reward"
    ),
    "drpo-q": lambda actor, _: _reading(DRPOLoss(actor), quality="predicted_reward"),
    "taper-a": lambda actor, _: _on_advantages(_tapered(actor, normalize=True)),
    "positive-only-a": lambda actor, _: _on_advantages(RepulsiveLoss(actor, negative_scale=0.0)),
    "drpo-a": lambda actor, _: _drpo_on_advantages(actor),
}
#: Those of them that follow Q - V, which is what the item adds to its state.
ADVANTAGE_OBJECTIVES = frozenset({"taper-a", "positive-only-a", "drpo-a"})
#: The same rules on moved actions, which the rows that they are given already hold.
UPHILL_OBJECTIVES: dict[str, LossFactory] = {
    "uphill": lambda actor: RepulsiveLoss(actor, negative_scale=0.0),
    "uphill-tapered": _tapered,
}
#: All that can be asked for.
NAMES: tuple[str, ...] = (*OBJECTIVES, *MODELLED_OBJECTIVES, *UPHILL_OBJECTIVES)
#: Those of them that one kind of policy alone can follow.
CATALOGUE_ONLY, EMBEDDING_ONLY = frozenset({"guided"}), frozenset(UPHILL_OBJECTIVES)
#: Those that first fit a reward model to the log.
FOLLOW_A_MODEL = frozenset({*MODELLED_OBJECTIVES, *UPHILL_OBJECTIVES})


def make_objective(name: str, actor: ProbabilisticActor, reward_model: Any = None) -> LossModule:
    """The named objective on an actor.

    Args:
        name: a key of ``OBJECTIVES`` or ``MODELLED_OBJECTIVES``.
        actor: what it trains.
        reward_model: of the log; for the names of ``FOLLOW_A_MODEL`` only, whose batches it has
            annotated (and moved, for those of ``UPHILL_OBJECTIVES``).

    Raises:
        ValueError: for an unknown name (the message lists the known ones), one that needs a
            reward model and has none, or one that such a policy cannot follow.

    Example:
        >>> from torchrl_drpo.policies import make_catalogue_actor
        >>> type(make_objective("drpo", make_catalogue_actor(10))).__name__
        'DRPOLoss'
    """
    if name not in NAMES:
        raise ValueError(f"no objective {name!r}; there are {', '.join(NAMES)}")
    check_fits(name, "embedding" if is_gaussian(actor) else "catalogue")
    if name in OBJECTIVES:
        return OBJECTIVES[name](actor)
    if reward_model is None:
        raise ValueError(f"objective {name!r} needs the log's reward model, got none")
    if name in UPHILL_OBJECTIVES:
        return UPHILL_OBJECTIVES[name](actor)
    return MODELLED_OBJECTIVES[name](actor, reward_model)


def check_fits(name: str, policy: str) -> None:
    """Raises ``ValueError`` for an objective that such a policy cannot follow."""
    if name in EMBEDDING_ONLY and policy != "embedding":
        raise ValueError(
            f"objective {name!r} moves action vectors, and item numbers have no direction to move "
            "in: train a policy over item vectors (policy 'embedding')"
        )
    if name in CATALOGUE_ONLY and policy != "catalogue":
        raise ValueError(
            f"objective {name!r} climbs an expectation over all items, which a policy over item "
            "vectors does not give: train a catalogue policy, or 'uphill'"
        )


def is_gaussian(actor: ProbabilisticActor) -> bool:
    """Whether it is a policy over vectors."""
    return actor[-1].distribution_class is DiagonalNormal
