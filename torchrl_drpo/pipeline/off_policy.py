"""``drpo evaluate --ope``: what a policy would earn, from the log's actions and propensities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.evaluation.off_policy import (
    ESTIMATORS,
    Estimate,
    LoggedRows,
    against,
    logging_value,
)
from torchrl_drpo.evaluation.off_policy.balance import FittedWeights, fit_weights
from torchrl_drpo.evaluation.off_policy.behavior import FittedBehavior, fit_behavior
from torchrl_drpo.evaluation.off_policy.cloning import Cloning
from torchrl_drpo.evaluation.off_policy.logs import RowSample, gathered
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.off_policy.sensitivity import WeightBounds, weight_bounds
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.numbered import NumberedRows, Numbering
from torchrl_drpo.pipeline.policy_value import PolicyValue, RewardFacts
from torchrl_drpo.pipeline.reward_model.held_out import SETTINGS, fit_reward, read_reward
from torchrl_drpo.pipeline.reward_model.make import RewardShape
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor

#: Estimators of the table that need no reward model, and those that do.
WEIGHTED = ("IPS", "clipped IPS", "SNIPS")
MODELLED = ("DM", "DR", "SNDR", "Switch-DR", "DRos")
#: Models of the logging policy, and gradient steps of each.
FOLDS, CLONING_STEPS = 5, 400
#: Draws of a policy over semantic IDs at each row.
CODE_DRAWS = 16
#: By which factors fitted weights may be wrong, for the bounds.
FACTORS = (1.5, 2.0)

Progress = Callable[[str, int, int], None]


def quiet(name: str, step: int, steps: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class ValueOptions:
    """How a policy is judged from a log.

    Attributes:
        behavior: which propensities: ``"logged"``, ``"fitted"`` (a model of the logging policy),
            ``"weights"`` (no propensities, the weights themselves, by classifiers that tell the
            policy's actions from the logged ones), or ``"auto"``, the logged ones where there are
            any and else fitted ones.
        reward_model: ``"auto"`` takes the run's own or fits one; ``"none"`` leaves out the
            estimators that follow one.
        draws: of the policy at each row, for the model's expectation; 0 adds up over all items, or
            takes ``CODE_DRAWS`` of a policy over semantic IDs, whose items cannot be added up.
        max_rows: score so many held-out rows at most, drawn at random.
        folder: of the policy's run, where its reward model lies.
    """

    behavior: Literal["auto", "logged", "fitted", "weights"] = "auto"
    reward_model: Literal["auto", "none"] = "auto"
    draws: int = 0
    max_rows: int = 50_000
    folder: Path | None = None


def policy_value(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    numbering: Numbering,
    options: ValueOptions | None = None,
    progress: Progress = quiet,
) -> PolicyValue:
    """Estimates for a checkpoint on the held-out rows.

    Args:
        checkpoint: a policy over item numbers.
        data: the log.
        numbering: from its numbers to the policy's.
        options: how.
        progress: called with what is being fitted, how much of it is there, and of how much.

    Raises:
        ValueError: for a policy whose probabilities of items are not defined, a log without the
            propensities that were asked for, or one whose actions the policy would never take.
    """
    options = options or ValueOptions()
    if not KINDS[checkpoint.policy].probabilities:
        able = " or ".join(name for name, kind in KINDS.items() if kind.probabilities)
        raise ValueError(
            f"a policy of kind {checkpoint.policy!r} serves what lies nearest and gives items no "
            f"probabilities; --ope is for policies of kind {able}"
        )
    fitted = _is_fitted(data, options.behavior)
    # With logged propensities a row of an unknown item is an action that the policy never takes.
    # A fitted model of the logger knows no such item, and these rows are left out.
    rows = NumberedRows(data, "test", numbering, only_known=fitted)
    sample = RowSample(rows, options.max_rows)
    model, source = _reward_model(checkpoint, data, numbering, options, progress)
    behavior: FittedBehavior | FittedWeights | None = None
    if options.behavior == "weights":
        behavior = fit_weights(checkpoint.actor, sample, reward_model=model, unseen=True)
    elif fitted:
        behavior = _behavior(checkpoint, data, sample, progress)
    draws = options.draws or (0 if checkpoint.has_index else CODE_DRAWS)
    scored = score_log(
        checkpoint.actor,
        sample,
        reward_model=model,
        draws=draws or None,
        behavior=behavior,
        unseen=True,
    )
    known = rows.known[sample.index]
    explained = None if model is None else _explained(scored.take(known))
    scored = _never_taken(scored, ~known)
    estimates = _estimates(scored)
    own = logging_value(scored)
    weighed = {name: each for name, each in estimates.items() if each.influence is not None}
    return PolicyValue(
        estimates,
        own,
        against(weighed, own),
        scored,
        reward_model=None
        if explained is None
        else RewardFacts(source, explained, int(known.sum())),
        behavior=behavior,
        bounds=_bounds(scored) if fitted else (),
        gap=_gap(behavior, data, sample) if isinstance(behavior, FittedBehavior) else None,
        left_out=len(data.test) - len(rows),
    )


def _is_fitted(data: SplitLog, behavior: str) -> bool:
    has_own = data.log.schema.propensity is not None
    if behavior == "logged" and not has_own:
        raise ValueError(
            "the log has no propensities: name their column in the schema (propensity=...), or ask "
            "for a model of the logging policy with --behavior fitted"
        )
    return behavior in ("fitted", "weights") or not has_own


def _reward_model(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    numbering: Numbering,
    options: ValueOptions,
    progress: Progress,
) -> tuple[Any, str]:
    """A model that has seen none of the held-out rows, and where it comes from."""
    if options.reward_model == "none":
        return None, ""
    shape = RewardShape(
        len(checkpoint.items),
        checkpoint.window,
        tuple(checkpoint.model["context_sizes"]),
        checkpoint.model.get("num_features", 0),
    )
    if options.folder is not None and not may_have_learned(checkpoint, data):
        own = read_reward(options.folder, checkpoint.facts.get("reward_fingerprint"), shape)
        if own is not None:
            return own, "run"
    earlier = RowSample(NumberedRows(data, "train", numbering), SETTINGS.max_rows)
    entries = [*shape.inputs, ("next", "reward")]
    entries += ["user"] if data.log.schema.user is not None else []
    learned = gathered(earlier).select(*entries)
    moments = data.feature_moments() if data.num_features else None

    def fitted(there: int, of: int) -> None:
        progress("reward model, folds", there, of)

    return fit_reward(learned, shape, moments=moments, progress=fitted), "log"


def may_have_learned(checkpoint: PolicyCheckpoint, data: SplitLog) -> bool:
    """Whether the policy's own run may have had some of the held-out rows to learn from.

    It had not where they begin no earlier than those that it held out, or are the very same.
    """
    trained = checkpoint.facts["data"]
    if data.facts["held_out"] == trained.get("held_out"):
        return False
    theirs, ours = data.facts["first_test_day"], trained["first_test_day"]
    return theirs is None or ours is None or theirs < ours


def _estimates(rows: LoggedRows) -> dict[str, Estimate]:
    names = WEIGHTED if rows.value is None else WEIGHTED + MODELLED
    return {name: ESTIMATORS[name](rows) for name in names}


def _explained(rows: LoggedRows) -> float:
    """Share of the variance of the rewards that the predictions explain."""
    total = (rows.reward - rows.reward.mean()).square().sum()
    return 1 - (rows.residual().square().sum() / total).item() if total > 0 else 0.0


def _never_taken(rows: LoggedRows, unknown: Tensor) -> LoggedRows:
    """The same where some rows show an item that the policy does not know, and never takes."""
    if not unknown.any():
        return rows
    changes = {"log_target": torch.where(unknown, -torch.inf, rows.log_target)}
    if rows.prediction is not None:  # of the item that stands in; its weight is 0
        changes["prediction"] = torch.where(unknown, rows.reward, rows.prediction)
    return replace(rows, **changes)


def _gap(behavior: FittedBehavior, data: SplitLog, sample: RowSample) -> float | None:
    """The median factor between fitted and logged propensities; ``None`` where none is logged."""
    if data.log.schema.propensity is None:
        return None
    logged = sample.column("log_propensity").double()
    return (behavior.log_propensity - logged).abs().median().exp().item()


def _bounds(rows: LoggedRows) -> list[WeightBounds]:
    name: Literal["SNIPS", "SNDR"] = "SNIPS" if rows.value is None else "SNDR"
    return [weight_bounds(rows, factor, estimator=name) for factor in FACTORS]


def _behavior(
    checkpoint: PolicyCheckpoint, data: SplitLog, sample: RowSample, progress: Progress
) -> FittedBehavior:
    """Propensities by models of the logging policy, each fitted without the rows that it judges."""
    cloning, there = _cloning(checkpoint, data), 0

    def counted(rows: TensorDictBase) -> Any:
        nonlocal there
        fitted, there = cloning(rows), there + 1
        progress("logging policy, folds", there, FOLDS)
        return fitted

    return fit_behavior(sample, counted, folds=FOLDS)


def _cloning(checkpoint: PolicyCheckpoint, data: SplitLog) -> Cloning:
    """Behaviour cloning by an untrained policy of the checkpoint's shape."""
    model = checkpoint.model

    def untrained() -> ProbabilisticActor:
        actor = make_catalogue_actor(
            model["num_items"],
            dim=model["dim"],
            history=model["history"],
            context_sizes=model["context_sizes"],
            num_features=model.get("num_features", 0),
        )
        if data.num_features:
            catalogue_policy(actor).encoder.scaler.fit_(*data.feature_moments())
        return actor

    by_user = data.log.schema.user is not None
    return Cloning(untrained, steps=CLONING_STEPS, group_key="user" if by_user else None)
