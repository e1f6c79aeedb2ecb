"""From a named objective and an actor to the loss that trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.tapers import ExponentialTaper, HardCutoff, ReciprocalTaper
from torchrl_drpo.objectives import (
    AsymRELoss,
    AWRLoss,
    BehaviorCloningLoss,
    CRRLoss,
    DRPOLoss,
    GBPOLoss,
    GuidedLoss,
    RepulsiveLoss,
)
from torchrl_drpo.pipeline.objectives.named import OWN, Objective, check_fits, find_objective
from torchrl_drpo.pipeline.objectives.options import (
    DRPOOptions,
    RepulsiveOptions,
    TaperOptions,
)
from torchrl_drpo.pipeline.objectives.own import load
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor
from torchrl_drpo.policies.gaussian import DiagonalNormal, make_gaussian_actor
from torchrl_drpo.policies.semantic_id import SemanticIDPolicy, semantic_id_policy

if TYPE_CHECKING:
    from torchrl_drpo.distributed.group import Over


def make_objective(
    name: str,
    actor: ProbabilisticActor,
    reward_model: Any = None,
    options: Mapping[str, Any] | None = None,
    over: Over | None = None,
) -> LossModule:
    """The named objective on an actor.

    Args:
        name: a key of :data:`~torchrl_drpo.pipeline.objectives.named.OBJECTIVES`.
        actor: what it trains.
        reward_model: of the log; for the names whose training follows one only, whose batches it
            has annotated (and moved, for ``uphill``). A tilt is no affair of the loss.
        options: those that are to differ from the name's own, as
            :mod:`~torchrl_drpo.pipeline.objectives.options` has them.
        over: the ranks whose rows are one batch; ``None`` for this process's.

    Raises:
        ValueError: for an unknown name or option (the message lists the known ones), one that
            needs a reward model and has none, or one that such a policy cannot follow.

    Example:
        >>> from torchrl_drpo.policies import make_catalogue_actor
        >>> make_objective("drpo", make_catalogue_actor(10), options={"kappa": 0.25}).kappa
        tensor(0.2500)
    """
    objective = find_objective(name, options)
    check_fits(name, _kind_of(actor))
    if objective.learns_from_model and reward_model is None:
        raise ValueError(f"objective {name!r} needs the log's reward model, got none")
    if objective.climbs:
        return GuidedLoss(actor, reward_model, over=over, **asdict(objective.options))
    if objective.loss == OWN and over is not None:
        raise ValueError(
            f"objective {name!r} is trained by one process, whose rows are the whole batch; leave "
            "torchrun out"
        )
    loss = MAKERS[objective.loss](actor, objective.options)
    if objective.loss == OWN:
        return loss
    if objective.signal != "logged":
        _read_signal(loss, objective)
    loss.over = over
    return loss


def check_options(name: str, objective: Objective, policy: str) -> None:
    """Refuses options that the objective's loss would refuse, before anything is trained.

    Args:
        name: of the objective, for the message.
        objective: with its options.
        policy: the kind of policy that is to be trained.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> check_options("drpo", find_objective("drpo", {"kappa": 5.0}), "catalogue")
        Traceback (most recent call last):
        ...
        ValueError: objective 'drpo': kappa must lie in (0, 1], got 5.0
    """
    gaussian = policy == "embedding"
    with torch.random.fork_rng(devices=[]):  # whoever draws next draws as ever
        small = make_gaussian_actor(1, 1) if gaussian else make_catalogue_actor(2, history=1)
    try:
        if objective.climbs:
            GuidedLoss(small, _NO_MODEL, **asdict(objective.options))
        else:
            MAKERS[objective.loss](small, objective.options)
    except ValueError as error:
        raise ValueError(f"objective {name!r}: {error}") from None


def is_gaussian(actor: ProbabilisticActor) -> bool:
    """Whether it is a policy over vectors."""
    return actor[-1].distribution_class is DiagonalNormal


def _kind_of(actor: ProbabilisticActor) -> str:
    if is_gaussian(actor):
        return "embedding"
    semantic = any(isinstance(module, SemanticIDPolicy) for module in actor.modules())
    return "semantic-id" if semantic else "catalogue"


def _drpo(actor: ProbabilisticActor, options: DRPOOptions) -> LossModule:
    kappa = options.kappa
    if kappa is None:
        kappa = AdaptiveKappa(
            initial=options.kappa_initial,
            target_ratio=options.target_ratio,
            bounds=options.kappa_bounds,
        )
    taper = _taper(actor, options)
    return DRPOLoss(
        actor,
        kappa=kappa,
        weighting=options.weighting,
        temperature=options.temperature,
        ties=options.ties,
        normalize=options.normalize,
        negative_taper=taper.pop("taper"),
        negative_scale=options.negative_scale,
        **taper,
    )


def _repulsive(actor: ProbabilisticActor, options: RepulsiveOptions) -> LossModule:
    return RepulsiveLoss(
        actor,
        negative_scale=options.negative_scale,
        baseline=options.baseline,
        normalize=options.normalize,
        **_taper(actor, options),
    )


def _plainly(loss: Callable[..., LossModule]) -> Callable[..., LossModule]:
    """For losses whose arguments bear the options' names."""
    return lambda actor, options: loss(actor, **asdict(options))


def _own(actor: ProbabilisticActor, options: Any) -> LossModule:
    try:
        loss = load(options.reference)(actor, **asdict(options))
    except ValueError:
        raise
    except Exception as error:  # of whatever it does
        raise ValueError(
            f"{options.reference} made no loss of the actor, it raised {type(error).__name__}: "
            f"{error}"
        ) from error
    if not isinstance(loss, LossModule):
        raise ValueError(
            f"{options.reference} made a {type(loss).__name__} of the actor; expected a TorchRL "
            "LossModule"
        )
    return loss


# What a loss is given for a reward model where only its options are looked at.
_NO_MODEL = TensorDictModule(nn.Identity(), in_keys=["action"], out_keys=["predicted_reward"])

#: By :attr:`Objective.loss`, what makes the loss of an actor and its options.
MAKERS: dict[str, Callable[[ProbabilisticActor, Any], LossModule]] = {
    "bc": _plainly(BehaviorCloningLoss),
    "drpo": _drpo,
    "repulsive": _repulsive,
    "awr": _plainly(AWRLoss),
    "crr": _plainly(CRRLoss),
    "asymre": _plainly(AsymRELoss),
    "gbpo": _plainly(GBPOLoss),
    OWN: _own,
}


def _taper(actor: ProbabilisticActor, options: TaperOptions) -> dict[str, Any]:
    """The taper of a policy, and what it takes for remoteness."""
    if options.taper == "none":
        return {"taper": None, "remoteness": "auto"}
    gaussian = is_gaussian(actor)
    threshold = options.taper_threshold
    if threshold is None and gaussian:  # one sigma from the mean in every entry
        threshold = 1.0
    if threshold is None:
        # Half the surprisal of a uniform choice: a skipped item is pushed down while it is clearly
        # likelier than chance, and let go once it is not.
        threshold = _half_of_a_uniform_choice(actor)
    remoteness = "per_dimension" if gaussian else "auto"
    if options.taper == "cutoff":
        return {"taper": HardCutoff(threshold), "remoteness": remoteness}
    shape = {"exponential": ExponentialTaper, "reciprocal": ReciprocalTaper}[options.taper]
    made = shape(strength=options.taper_strength, scale=options.taper_scale, threshold=threshold)
    return {"taper": made, "remoteness": remoteness}


def _half_of_a_uniform_choice(actor: ProbabilisticActor) -> float:
    """Half the surprisal of a uniform choice of an item; of a code, where it takes several."""
    if _kind_of(actor) == "semantic-id":
        trie = semantic_id_policy(actor).trie
        return 0.5 * math.log(trie.num_items) / trie.num_levels
    return 0.5 * math.log(catalogue_policy(actor).num_items)


def _read_signal(loss: LossModule, objective: Objective) -> None:
    """Lets a loss read the reward model's columns in place of the logged rewards."""
    if isinstance(objective.options, DRPOOptions):
        loss.set_keys(quality=objective.signal)
    elif objective.signal == "predicted_reward":
        loss.set_keys(reward="predicted_reward")
    else:
        # An advantage that is given is taken as it is: no mean of the batch is subtracted again.
        # The reward's key is the same, so that rows without the column are an error, and are not
        # measured by their logged rewards instead.
        loss.set_keys(advantage="predicted_advantage", reward="predicted_advantage")
