"""The columns of ``drpo train`` that say what each policy would have earned.

Only where a log has propensities, and for policies that give items probabilities. The log's actions
are weighted (SNIPS); where the command has fitted a reward model, its errors are (DR).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.evaluation.off_policy import ESTIMATORS, LoggedRows, logging_value
from torchrl_drpo.evaluation.off_policy.actors import Policy
from torchrl_drpo.evaluation.off_policy.columns import log_columns
from torchrl_drpo.evaluation.off_policy.logs import (
    LogKeys,
    RowSample,
    gathered,
    log_propensity_of,
)
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.pipeline.numbered import NumberedRows, Numbering
from torchrl_drpo.pipeline.rows import SplitLog

#: Held-out rows that are scored at most.
MAX_ROWS = 50_000
#: By estimator, an estimate as JSON data (:meth:`~...off_policy.Estimate.to_json`).
Values = dict[str, dict[str, Any]]

_ORDER = ("usable", "weak", "meaningless")


@dataclass(frozen=True)
class OverSeeds:
    """One estimate of the policies of several seeds.

    Attributes:
        value: mean over the seeds; NaN where none of the log's actions says anything.
        low: lower end of the interval.
        high: upper end.
        verdict: the worst of the seeds'.
    """

    value: float
    low: float
    high: float
    verdict: str

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "-"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        ends = {name: getattr(self, name) for name in ("value", "low", "high")}
        finite = {name: end if math.isfinite(end) else None for name, end in ends.items()}
        return {**finite, "verdict": self.verdict}


class LoggedValue:
    """Estimates of policies from a log's held-out rows.

    Args:
        data: a log with propensities.
        reward_model: that has not seen the held-out rows, for DR; ``None`` for none.
    """

    def __init__(self, data: SplitLog, reward_model: Any = None) -> None:
        rows = NumberedRows(data, "test", Numbering.identity(data))
        self._rows = RowSample(rows, MAX_ROWS)
        self._model = reward_model
        if isinstance(reward_model, nn.Module) and _device(reward_model).type != "cpu":
            self._model = deepcopy(reward_model).cpu()  # where the rows are

    def of(self, policy: Policy) -> Values:
        """Of one policy; where nothing can be estimated, the reason stands in place of a number."""
        names = ["SNIPS"] + (["DR"] if self._model is not None else [])
        device = _device(policy) if isinstance(policy, nn.Module) else None
        if device is not None:
            policy.cpu()
        try:
            scored = score_log(policy, self._rows, reward_model=self._model, unseen=True)
            return {name: ESTIMATORS[name](scored).to_json() for name in names}
        except ValueError as error:  # no overlap, a logger without chance: no reason to lose a run
            nothing = dict.fromkeys(("value", "low", "high", "standard_error"))
            why = {"verdict": "meaningless", "reasons": [str(error)]}
            return {name: {"estimator": name, **nothing, **why} for name in names}
        finally:
            if device is not None:
                policy.to(device)

    def of_log(self) -> dict[str, Any]:
        """What the rows earned as they are, as JSON data."""
        everything = gathered(self._rows)
        keys = LogKeys()
        log = log_columns(everything, keys)
        own = log_propensity_of(everything, keys)
        return logging_value(
            LoggedRows(log["reward"], own, own, cluster=log.get("cluster"))
        ).to_json()


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def static_policy(score: Tensor) -> Callable[[TensorDictBase], CatalogueCategorical]:
    """The policy that draws each item in proportion to ``exp(score)``, whatever the state.

    Args:
        score: of the items, ``[V]``.

    Example:
        >>> from tensordict import TensorDict
        >>> policy = static_policy(torch.tensor([1.0, 3.0]).log())
        >>> policy(TensorDict({}, [2])).probs[1]
        tensor([0.2500, 0.7500])
    """

    def at(rows: TensorDictBase) -> CatalogueCategorical:
        nothing = score.new_zeros(1, dtype=torch.float32)
        return CatalogueCategorical(
            nothing.expand(len(rows), 1), nothing.expand(len(score), 1), bias=score.float()
        )

    return at


def over_seeds(values: Sequence[Values], estimator: str) -> OverSeeds:
    r"""One estimator's values over seeds, with an interval for rows and seeds alike.

    All seeds are judged by the same rows, so the rows' part is the seeds' mean interval; that of
    the seeds, :math:`t s / \sqrt S`, is added in squares. With one seed it is the estimate's own.
    """
    found = [seed[estimator] for seed in values]
    verdict = max((each["verdict"] for each in found), key=_ORDER.index)
    if any(each[end] is None for each in found for end in ("value", "low", "high")):
        return OverSeeds(math.nan, math.nan, math.nan, verdict)
    mean = mean_interval([each["value"] for each in found])
    seeds = 0.0 if math.isnan(mean.half_width) else mean.half_width
    ends = [
        mean.mean
        + sign * math.hypot(sum(abs(e[end] - e["value"]) for e in found) / len(found), seeds)
        for sign, end in ((-1, "low"), (1, "high"))
    ]
    return OverSeeds(mean.mean, *ends, verdict)


@dataclass(frozen=True)
class ValueColumns:
    """What ``drpo train`` found of its policies' values.

    Attributes:
        logging: what the log earned, as JSON data.
        runs: by method, the estimates of each seed.
    """

    logging: dict[str, Any]
    runs: Mapping[str, Sequence[Values]]

    @property
    def estimator(self) -> str:
        """DR where every run has it (one that finished before may not), else SNIPS."""
        has_all = all("DR" in seed for seeds in self.runs.values() for seed in seeds)
        return "DR" if has_all else "SNIPS"

    def columns(self) -> dict[str, dict[str, str]]:
        """Of the table, by heading and method: the values, and what they are worth."""
        found = {name: over_seeds(seeds, self.estimator) for name, seeds in self.runs.items()}
        return {
            f"value, {self.estimator} ↑": {name: str(each) for name, each in found.items()},
            "verdict on it": {name: each.verdict for name, each in found.items()},
        }

    @property
    def note(self) -> str:
        """What a reader must know to read it."""
        log = self.logging
        return (
            "Value is the mean quality a row that the policy would have had, estimated from the "
            f"log's propensities, with its 95% interval; the log itself had "
            f"{log['value']:.4g} [{log['low']:.4g}, {log['high']:.4g}]. A meaningless one is no "
            "number; results.json has the reasons."
        )

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        chosen = self.estimator
        summary = {name: over_seeds(seeds, chosen).to_json() for name, seeds in self.runs.items()}
        runs = {name: list(seeds) for name, seeds in self.runs.items()}
        return {
            "estimator": chosen,
            "logging_policy": self.logging,
            "summary": summary,
            "runs": runs,
        }
