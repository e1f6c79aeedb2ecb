"""What off-policy evaluation found of one policy: its numbers as JSON data and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchrl_drpo.evaluation.off_policy import Difference, Estimate, LoggedRows
from torchrl_drpo.evaluation.off_policy.balance import FittedWeights
from torchrl_drpo.evaluation.off_policy.behavior import FittedBehavior
from torchrl_drpo.evaluation.off_policy.sensitivity import WeightBounds
from torchrl_drpo.report.tables import Table

NOTE = (
    "Mean quality a row with its 95% interval. The difference is to what the log earned, on the "
    "same rows, its p value corrected for the number of estimators. What speaks against an "
    "estimate is its verdict's reason; a meaningless number is none."
)
#: How verdicts are coloured on a terminal and in figures' words.
VERDICTS = {"usable": "green", "weak": "yellow", "meaningless": "red"}


@dataclass(frozen=True)
class RewardFacts:
    """The reward model behind DM, DR, SNDR, Switch-DR and DRos.

    Attributes:
        source: ``"run"`` where the policy's own run had left it, ``"log"`` where it was fitted to
            the evaluated log's earlier days.
        explained_variance: share of the variance of the judged rows' rewards that it explains.
        rows: that it was judged on.
    """

    source: str
    explained_variance: float
    rows: int

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        explained = self.explained_variance
        finite = explained if math.isfinite(explained) else None
        return {"source": self.source, "explained_variance": finite, "rows": self.rows}

    def __str__(self) -> str:
        made = "the policy's run" if self.source == "run" else "the log's earlier days"
        helps = "" if self.explained_variance > 0 else ", so corrections by it gain nothing"
        return (
            f"The reward model of {made} explains {self.explained_variance:.1%} of the variance of "
            f"these rows' rewards, which it has not seen{helps}"
        )


@dataclass(frozen=True)
class PolicyValue:
    """What a policy would have earned on the held-out rows.

    Attributes:
        estimates: by estimator.
        logging: what the rows earned as they are.
        differences: each estimate minus that; none for the direct method.
        rows: what the estimates are made of.
        reward_model: that the later estimators follow; ``None`` where there are none of these.
        behavior: the model of the logging policy, where propensities are fitted, or what fitted
            the weights themselves.
        bounds: where estimates lie if every weight is wrong by some factor, where they are fitted.
        gap: median factor between fitted and logged propensities, where there are both.
        left_out: held-out rows of items that the policy does not know, which are not among ``rows``
            (with logged propensities they are, as actions that it never takes).
    """

    estimates: dict[str, Estimate]
    logging: Estimate
    differences: dict[str, Difference]
    rows: LoggedRows
    reward_model: RewardFacts | None = None
    behavior: FittedBehavior | FittedWeights | None = None
    bounds: Sequence[WeightBounds] = ()
    gap: float | None = None
    left_out: int = 0

    @property
    def fitted(self) -> bool:
        """Whether the propensities come of a model of the log."""
        return self.behavior is not None

    @property
    def _propensities(self) -> str:
        if not self.fitted:
            return "logged"
        return "weights" if isinstance(self.behavior, FittedWeights) else "fitted"

    @property
    def is_meaningless(self) -> bool:
        """Whether no estimate by the log's own actions means anything.

        The direct method is not asked: it is what its model believes, whatever the log shows.
        """
        found = [each for each in self.estimates.values() if each.diagnostics.relies_on_weights]
        return all(each.verdict == "meaningless" for each in found)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        out: dict[str, Any] = {
            "propensities": self._propensities,
            "rows": len(self.rows),
            "log_rows": self.rows.log_rows or len(self.rows),
            "left_out_rows": self.left_out,
            "logging_policy": self.logging.to_json(),
            "estimates": {name: self._estimate_json(name) for name in self.estimates},
        }
        if self.reward_model is not None:
            out["reward_model"] = self.reward_model.to_json()
        if self.behavior is not None:
            out["behavior"] = self.behavior.to_json()
            out["behavior"]["factor_to_logged"] = self.gap
            out["sensitivity"] = [vars(each) for each in self.bounds]
        return out

    def table(self, title: str) -> Table:
        """A row an estimator."""
        rows = [["the log itself", _interval(self.logging), "", "", "", ""]]
        for name, each in self.estimates.items():
            found = self.differences.get(name)
            relies = each.diagnostics.relies_on_weights
            rows.append(
                [
                    name,
                    _interval(each),
                    "" if found is None else str(found),
                    "" if found is None else f"{found.p_value:.2g}",
                    f"{each.diagnostics.effective_rows:,.0f}" if relies else "",
                    each.verdict,
                ]
            )
        header = ["estimator", "value", "difference", "p", "effective rows", "verdict"]
        return Table(title, header, rows, note=NOTE, styles=VERDICTS)

    def notes(self) -> list[str]:
        """What else is to be known of the numbers, in sentences."""
        out = []
        if (self.rows.log_rows or 0) > len(self.rows):
            out.append(
                f"Made of {len(self.rows):,} of {self.rows.log_rows:,} rows, drawn at random."
            )
        if self.left_out:
            out.append(
                f"{self.left_out:,} rows of items that the policy does not know are left out."
            )
        if self.reward_model is not None:
            out.append(f"{self.reward_model}.")
        if isinstance(self.behavior, FittedBehavior):
            out += self._of_behavior(self.behavior)
        elif self.behavior is not None:
            out.append(
                f"No propensities are read: {self.behavior}, by models that had not seen it."
            )
        if self.behavior is not None:
            out += self._of_bounds()
        return out + self._reasons()

    def calibration_table(self) -> Table | None:
        """Fitted propensities against what was logged; ``None`` where none were fitted."""
        if not isinstance(self.behavior, FittedBehavior):
            return None
        found = self.behavior.calibration
        body = [
            [f"{math.exp(log):.2g}", f"{predicted:.1%}", f"{observed:.1%}", f"{excess:.2f}"]
            for log, predicted, observed, excess in zip(
                found.log_propensity, found.predicted, found.observed, found.excess, strict=True
            )
        ]
        header = ["propensity", "predicted rows", "logged rows", "too large by"]
        note = (
            "Actions that the fitted models draw at the rows, and those that were logged there, by "
            "tenths of propensity. Weights are too small by the last column where it is above 1."
        )
        return Table("Fitted propensities", header, body, note=note)

    def _of_behavior(self, behavior: FittedBehavior) -> list[str]:
        out = [
            "Propensities are fitted, "
            + ("the log has none" if self.gap is None else "though the log has its own")
            + f": each row's by a model of the logging policy that had not seen it. "
            f"{behavior.calibration}, and {behavior.clip_rate:.1%} were raised to "
            f"{behavior.floor:.2g}."
        ]
        if self.gap is not None:
            out.append(f"Half of them lie within a factor of {self.gap:.2f} of the logged ones.")
        return out

    def _of_bounds(self) -> list[str]:
        """Where estimates lie if every fitted weight is wrong by some factor."""
        own, out = self.logging.value, []
        for each in self.bounds:
            side = (
                "above" if each.low > own else "below" if each.high < own else "on either side of"
            )
            out.append(
                f"If weights are wrong by a factor of up to {each.factor:g}, {each.estimator} lies "
                f"in [{each.low:.4g}, {each.high:.4g}], {side} what the log earned."
            )
        return out

    def _reasons(self) -> list[str]:
        """What speaks against estimates, each with those that it speaks against."""
        by_reason: dict[str, list[str]] = {}
        for name, each in self.estimates.items():
            for _, why in each.diagnostics.reasons():
                by_reason.setdefault(why, []).append(name)
        return [f"{', '.join(names)}: {why}." for why, names in by_reason.items()]

    def _estimate_json(self, name: str) -> dict[str, Any]:
        plain = self.estimates[name].to_json()
        if name not in self.differences:
            return plain
        found = vars(self.differences[name])
        finite = {key: value if math.isfinite(value) else None for key, value in found.items()}
        return plain | {"difference": finite}


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
