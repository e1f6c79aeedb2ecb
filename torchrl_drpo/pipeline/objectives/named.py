"""The objectives that can be asked for by name when a policy is trained on a log.

Those whose ``signal`` is not the logged one, and those that climb or move, first fit a cross-fitted
reward model to the training rows:

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

Two leave training as it is and change what is served:

- ``bc-tilt``, ``positive-only-tilt``, ``drpo-tilt``: their namesakes, trained as they are, times
  the exponential of the same reward model: pi exp(Q / tau), normalised
  (:func:`~torchrl_drpo.policies.tilted.make_tilted_actor`). What the state alone is worth cancels.
  Of a Gaussian over item vectors that is the mean moved up the model's slope
  (:func:`~torchrl_drpo.policies.uphill.make_uphill_actor`).
- ``conditioned``: all rows cloned, each with its level of quality as one more context column;
  served with the best level and guided away from the worst
  (:func:`~torchrl_drpo.policies.conditioned.make_conditioned_actor`). It fits no reward model;
  ``conditioned-tilt`` is tilted in place of guided.

``reward-weighted`` is exponential reward-weighted fine-tuning (arXiv 2603.10279): the weight of a
row is exp(r / lambda) of its own reward, with no baseline, no cap, no propensity and no reward
model. It is ``AWRLoss(actor, temperature=lambda, baseline=0.0, max_weight=None)``; lambda is the
option ``temperature`` in units of the reward, and trades gain for robustness. ``awr`` differs by
the batch's mean reward as its baseline (one factor for all rows of a batch) and its cap.

Objectives on rewards, logged or predicted (``-q``), compare all rows of a batch with each other: a
state in which everything is worth little (a tab that nobody watches) repels, or drops, all that was
shown there, and is then served badly. Those on advantages (``-a``) compare a row with what its own
state leads one to expect, so every state learns its better items; a row counts for nothing more
where things go well anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torchrl_drpo.pipeline.objectives.options import (
    AsymREOptions,
    AWROptions,
    ConditionOptions,
    CRROptions,
    DRPOOptions,
    GBPOOptions,
    GuidedOptions,
    ObjectiveOptions,
    RepulsiveOptions,
    TiltOptions,
)
from torchrl_drpo.pipeline.objectives.own import own_options
from torchrl_drpo.references import is_reference
from torchrl_drpo.spelling import did_you_mean

#: The loss of objectives by reference (:mod:`~torchrl_drpo.pipeline.objectives.own`).
OWN = "own"


@dataclass(frozen=True)
class Objective:
    """What a name stands for.

    Attributes:
        loss: the rule for the weights, a key of
            :data:`~torchrl_drpo.pipeline.objectives.make.MAKERS`; :data:`OWN` for one by reference.
        options: its options, with the defaults of this name.
        signal: what its weights are made of: the logged rewards, the reward model's out-of-fold
            predictions Q, or their advantage Q - V.
        moves: whether actions are first moved up the reward model's slope.
        climbs: whether the loss itself climbs the reward model.
        condition: of a policy that is trained on levels of quality, and asked for the best.
        tilt: of a policy that is served times the exponential of the reward model.
        policies: the only kinds of policies that can follow it; empty for all kinds.
    """

    loss: str
    options: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    signal: Literal["logged", "predicted_reward", "predicted_advantage"] = "logged"
    moves: bool = False
    climbs: bool = False
    condition: ConditionOptions | None = None
    tilt: TiltOptions | None = None
    policies: tuple[str, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether it learns nothing from rows that are all worth the same."""
        return self.loss not in ("bc", OWN) or self.condition is not None or self.tilt is not None

    @property
    def follows_model(self) -> bool:
        """Whether a reward model of the log is fitted first."""
        return self.learns_from_model or self.tilt is not None

    @property
    def learns_from_model(self) -> bool:
        """Whether training itself asks the reward model."""
        return self.moves or self.climbs or self.signal != "logged"

    @property
    def trained(self) -> Objective:
        """What is trained, whatever is made of it at serving."""
        condition = None if self.condition is None else replace(self.condition, guidance=0.0)
        return replace(self, condition=condition, tilt=None, policies=())

    def with_options(self, changes: Mapping[str, Any]) -> Objective:
        """The same with other options: of the loss, of the condition, or of the tilt.

        Raises:
            ValueError: for an option that it does not have, or a value out of a part's range.
        """
        parts = {"options": self.options, "condition": self.condition, "tilt": self.tilt}
        there = {name: part for name, part in parts.items() if part is not None}
        known = {option: name for name, part in there.items() for option in vars(part)}
        for bad in changes.keys() - known.keys():
            hint = did_you_mean(bad, list(known))
            raise ValueError(f"no option {bad!r}{hint}; there are {', '.join(known) or 'none'}")
        changed: dict[str, Any] = {}
        for option, value in changes.items():
            name = known[option]
            changed[name] = replace(changed.get(name, there[name]), **{option: value})
        return replace(self, **changed)


_TAPERED = RepulsiveOptions(taper="exponential")
_POSITIVE_ONLY = RepulsiveOptions(negative_scale=0.0)
_TILT: dict[str, Any] = {"tilt": TiltOptions()}
# Predictions spread less than logged rewards do; in units of their spread they repel as much.
_TAPERED_ON_PREDICTIONS = replace(_TAPERED, normalize=True)

OBJECTIVES: dict[str, Objective] = {
    "bc": Objective("bc"),
    "drpo": Objective("drpo", DRPOOptions()),
    "drpo-exponential": Objective("drpo", DRPOOptions(weighting="exponential")),
    "drpo-kl": Objective("drpo", DRPOOptions(weighting="kl")),
    # On KuaiRand the most lift of all that kept nine tenths of BC's hits on the tuning days.
    "drpo-tapered": Objective(
        "drpo", DRPOOptions(kappa=0.5, taper="exponential", negative_scale=0.3)
    ),
    "adaptive-bc": Objective("drpo", DRPOOptions(weighting="uniform")),
    "positive-only": Objective("repulsive", _POSITIVE_ONLY),
    "signed": Objective("repulsive", RepulsiveOptions()),
    "tapered": Objective("repulsive", _TAPERED),
    "awr": Objective("awr", AWROptions()),
    "reward-weighted": Objective("awr", AWROptions(baseline=0.0, max_weight=None)),
    "crr": Objective("crr", CRROptions()),
    "asymre": Objective("asymre", AsymREOptions()),
    "gbpo": Objective("gbpo", GBPOOptions()),
    # Trained as their namesakes; the critic comes in when they are served.
    "bc-tilt": Objective("bc", **_TILT),
    "positive-only-tilt": Objective("repulsive", _POSITIVE_ONLY, **_TILT),
    "drpo-tilt": Objective("drpo", DRPOOptions(), **_TILT),
    "conditioned": Objective("bc", condition=ConditionOptions(), policies=("catalogue",)),
    # On KuaiRand the critic did better than guidance, and both together no better than it alone.
    "conditioned-tilt": Objective(
        "bc",
        condition=ConditionOptions(guidance=0.0),
        tilt=TiltOptions(),
        policies=("catalogue",),
    ),
    "guided": Objective("guided", GuidedOptions(), climbs=True, policies=("catalogue",)),
    # Out-of-fold predictions are the log's rewards without most of their noise: a skipped row of an
    # item that others watch is no longer a negative, nor a lucky row of a poor one a positive.
    "taper-q": Objective("repulsive", _TAPERED_ON_PREDICTIONS, "predicted_reward"),
    "positive-only-q": Objective("repulsive", _POSITIVE_ONLY, "predicted_reward"),
    "drpo-q": Objective("drpo", DRPOOptions(), "predicted_reward"),
    "taper-a": Objective("repulsive", _TAPERED_ON_PREDICTIONS, "predicted_advantage"),
    "positive-only-a": Objective("repulsive", _POSITIVE_ONLY, "predicted_advantage"),
    # The quota goes to the rows that exceed their own state's expectation most: to many where the
    # choice of the item matters, to few where it does not, whatever the state is worth. Linear
    # weights are A - nu, distances from the K-th best advantage: the zero of A plays no part, and
    # while kappa is above the share of rows that beat their state (about a half) nu is below 0
    # and some rows that fall short of it are imitated too, weakly.
    "drpo-a": Objective("drpo", DRPOOptions(), "predicted_advantage"),
    # The same rules on moved actions.
    "uphill": Objective("repulsive", _POSITIVE_ONLY, moves=True, policies=("embedding",)),
    "uphill-tapered": Objective("repulsive", _TAPERED, moves=True, policies=("embedding",)),
}
#: All that can be asked for.
NAMES: tuple[str, ...] = tuple(OBJECTIVES)
_WHY_ONLY = {
    "moves": "moves action vectors, and item numbers have no direction to move in",
    "climbs": "climbs an expectation over all items, which only a softmax over them gives",
    "condition": "guides states of a softmax over item numbers, whose scores are linear in them",
}


def find_objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """The named objective, with some of its options changed.

    Raises:
        ValueError: for an unknown name or option; the message lists the known ones.

    Example:
        >>> find_objective("drpo", {"kappa": 0.2}).options.kappa
        0.2
    """
    if is_reference(name):
        known = Objective(OWN, own_options(name))
    elif name in OBJECTIVES:
        known = OBJECTIVES[name]
    else:
        raise ValueError(
            f"no objective {name!r}{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}, and "
            "those of your own, as mymodule:MyLoss"
        )
    try:
        return known.with_options(options or {})
    except ValueError as error:
        raise ValueError(f"objective {name!r}: {error}") from None


def check_fits(name: str, policy: str) -> None:
    """Raises ``ValueError`` for an objective that such a policy cannot follow."""
    objective = find_objective(name)
    if objective.policies and policy not in objective.policies:
        why = next(why for what, why in _WHY_ONLY.items() if getattr(objective, what))
        raise ValueError(
            f"objective {name!r} {why}: train a policy of kind {' or '.join(objective.policies)}, "
            f"not {policy}"
        )


def following_model(names: Iterable[str]) -> list[str]:
    """Those of the named objectives that first fit a reward model to the log."""
    return [name for name in names if find_objective(name).follows_model]
