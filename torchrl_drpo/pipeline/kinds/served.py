"""Policies as they are served: conditioned on quality, tilted by the reward model, moved uphill.

A checkpoint keeps the arguments of all parts, and the weights of all in one file: the trained
policy, and beside it the critic that tilts it.
"""

from __future__ import annotations

from dataclasses import replace
from types import UnionType
from typing import Any

from torchrl.modules import ProbabilisticActor

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.conditioned import ConditionedPolicy, make_conditioned_actor
from torchrl_drpo.policies.retrieval import make_retrieval_actor, retrieval_policy
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor
from torchrl_drpo.policies.semantic_id.tilted import (
    TiltedSemanticIDPolicy,
    make_tilted_semantic_id_actor,
)
from torchrl_drpo.policies.tilted import TiltedPolicy, make_tilted_actor
from torchrl_drpo.policies.uphill import UphillPolicy, make_uphill_actor
from torchrl_drpo.rewards.bilinear import BilinearReward
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

#: What may be turned at serving: its part of a checkpoint's arguments, who has it, and in words.
_KNOBS: dict[str, tuple[str, type | UnionType, str]] = {
    "tau": (
        "tilt",
        TiltedPolicy | TiltedSemanticIDPolicy,
        "tilted policies over items or their codes (of objectives that end in -tilt)",
    ),
    "uphill_step": (
        "tilt",
        UphillPolicy,
        "policies over item vectors whose mean is moved (of objectives that end in -tilt)",
    ),
    "guidance": (
        "condition",
        ConditionedPolicy,
        "policies that are conditioned on quality (of conditioned and conditioned-tilt)",
    ),
}


def make_served_actor(
    *,
    condition: dict[str, Any] | None = None,
    tilt: dict[str, Any] | None = None,
    **model: Any,
) -> ProbabilisticActor:
    """An actor of a checkpoint's arguments, with fresh weights.

    Args:
        condition: ``levels`` and ``guidance`` of a policy that is conditioned on quality.
        tilt: ``tau`` of a tilted one, and ``critic``, its shape as of :func:`critic_shape`.
        **model: of :func:`~torchrl_drpo.make_catalogue_actor`; the log's context columns alone.

    Example:
        >>> critic = {"members": 2, "dim": 4, "hidden": [8]}
        >>> actor = make_served_actor(num_items=9, history=3, tilt={"tau": 0.1, "critic": critic})
        >>> actor.in_keys
        [('observation', 'history')]
    """
    if condition is not None:
        actor = make_catalogue_actor(**with_level(model, condition["levels"]))
        actor = make_conditioned_actor(actor, condition["guidance"])
    else:
        actor = make_catalogue_actor(**model)
    if tilt is None:
        return actor
    return make_tilted_actor(actor, _untrained_critic(model, **tilt["critic"]), tilt["tau"])


def make_served_semantic_id_actor(
    *, tilt: dict[str, Any] | None = None, **model: Any
) -> ProbabilisticActor:
    """The same of a policy over semantic IDs; ``model`` is of :func:`make_semantic_id_actor`."""
    actor = make_semantic_id_actor(**model)
    if tilt is None:
        return actor
    critic = _untrained_critic(model, **tilt["critic"])
    return make_tilted_semantic_id_actor(actor, critic, tilt["tau"])


def make_served_retrieval_actor(
    *, tilt: dict[str, Any] | None = None, **model: Any
) -> ProbabilisticActor:
    """The same of a policy over item vectors; ``model`` is of :func:`make_retrieval_actor`.

    ``tilt`` holds its ``uphill_step`` and ``landmarks``, the number of each critic's.
    """
    actor = make_retrieval_actor(**model)
    if tilt is None:
        return actor
    width = retrieval_policy(actor).state.width
    critics = [BilinearReward.empty(count, width, model["dim"]) for count in tilt["landmarks"]]
    return make_uphill_actor(actor, critics, typical=1.0, step=tilt["uphill_step"])


def with_level(model: dict[str, Any], levels: int) -> dict[str, Any]:
    """The arguments of a policy that reads a level of quality beside the log's columns."""
    return model | {"context_sizes": (*model.get("context_sizes", ()), levels)}


def critic_shape(critic: CatalogueReward) -> dict[str, Any]:
    """What makes another of the same shape for the same log, as JSON data."""
    network = critic.members[0].network.module
    return {
        "members": len(critic.members),
        "dim": network.items.shape[1],
        "hidden": list(network.encoder.config.hidden),
    }


def turned(
    checkpoint: PolicyCheckpoint,
    *,
    tau: float | None = None,
    guidance: float | None = None,
    uphill_step: float | None = None,
) -> PolicyCheckpoint:
    """A loaded policy with its knobs of serving set; ``None`` leaves one as it was saved.

    Args:
        checkpoint: its policy is changed.
        tau: of a tilted one, above 0.
        guidance: of one that is conditioned on quality, at least 0.
        uphill_step: of a tilted one over item vectors, at least 0.

    Raises:
        ValueError: for a knob that the policy does not have, or a value out of range.
    """
    model = dict(checkpoint.model)
    for name, value in (("tau", tau), ("guidance", guidance), ("uphill_step", uphill_step)):
        if value is None:
            continue
        part, kind, whose = _KNOBS[name]
        found = [each for each in checkpoint.actor.modules() if isinstance(each, kind)]
        if not found:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is of {whose}, and this one is not; leave it out")
        setattr(found[0], name, value)
        model[part] = model[part] | {name: value}
    return replace(checkpoint, model=model)


def _untrained_critic(
    model: dict[str, Any], *, members: int, dim: int, hidden: list[int]
) -> CatalogueReward:
    """A critic with fresh weights, of the log that a policy's arguments describe."""
    shape = {name: model[name] for name in ("context_sizes", "num_features") if name in model}
    shape |= {"dim": dim, "history": model["history"], "hidden": tuple(hidden)}
    networks = [two_tower_module(model["num_items"], **shape) for _ in range(members)]
    critic = CatalogueReward([StandardisedReward(network) for network in networks])
    return critic.requires_grad_(False).eval()
