"""``drpo evaluate --ope``: what a policy would earn, from the log's actions and propensities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_drpo.evaluation.off_policy import (
    Difference,
    Estimate,
    LoggedRows,
    against,
    clipped_ips,
    ips,
    logging_value,
    snips,
)
from torchrl_drpo.evaluation.off_policy.behavior import fit_behavior
from torchrl_drpo.evaluation.off_policy.cloning import Cloning
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies import make_catalogue_actor
from torchrl_drpo.report.tables import Table

#: Estimators that need no reward model.
ESTIMATORS = {"IPS": ips, "clipped IPS": clipped_ips, "SNIPS": snips}
#: Gradient steps of each model of the logging policy, where no propensity was logged.
CLONING_STEPS = 400
NOTE = (
    "Mean quality a row. The difference is to what the log earned, on the same rows, its p value "
    "corrected for the number of estimators. What speaks against an estimate is its verdict's "
    "reason; a meaningless number is none."
)


@dataclass(frozen=True)
class PolicyValue:
    """What a policy would have earned on the held-out rows.

    Attributes:
        estimates: by estimator.
        logging: what the rows earned as they are.
        differences: each estimate minus that.
        fitted: whether the propensities come of a model of the log.
    """

    estimates: dict[str, Estimate]
    logging: Estimate
    differences: dict[str, Difference]
    fitted: bool

    @property
    def is_meaningless(self) -> bool:
        """Whether no estimate means anything."""
        return all(each.verdict == "meaningless" for each in self.estimates.values())

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        return {
            "propensities": "fitted" if self.fitted else "logged",
            "logging_policy": self.logging.to_json(),
            "estimates": {
                name: each.to_json()
                | {
                    "difference": {
                        key: value if math.isfinite(value) else None
                        for key, value in vars(self.differences[name]).items()
                    }
                }
                for name, each in self.estimates.items()
            },
        }

    def table(self, title: str) -> Table:
        """A row an estimator."""
        rows = [["the log itself", _interval(self.logging), "", "", "", ""]]
        for name, each in self.estimates.items():
            found = self.differences[name]
            rows.append(
                [
                    name,
                    _interval(each),
                    str(found),
                    f"{found.p_value:.2g}",
                    f"{each.diagnostics.effective_rows:,.0f}",
                    each.verdict,
                ]
            )
        reasons = {why for each in self.estimates.values() for _, why in each.diagnostics.reasons()}
        header = ["estimator", "value", "difference", "p", "effective rows", "verdict"]
        said = f" {'; '.join(sorted(reasons)).capitalize()}." if reasons else ""
        fitted = " The propensities were fitted, none was logged." if self.fitted else ""
        return Table(title, header, rows, note=NOTE + fitted + said)


def policy_value(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    known: Iterator[TensorDictBase],
    is_known: torch.Tensor,
) -> PolicyValue:
    """Estimates for a checkpoint on the held-out rows.

    Args:
        checkpoint: a policy over item numbers.
        data: the log.
        known: the held-out rows of items that the policy knows, numbered as it does.
        is_known: which of the held-out rows these are, ``[N]``.

    Raises:
        ValueError: for a policy whose probabilities of items are not defined, or a log whose
            actions it would never take.
    """
    if checkpoint.policy != "catalogue":
        raise ValueError(
            f"a policy of kind {checkpoint.policy!r} serves what lies nearest and gives items no "
            "probabilities; --ope is for catalogue policies"
        )
    rows = torch.cat([block.clone() for block in known])
    fitted = data.log.schema.propensity is None
    behavior = fit_behavior(rows, _cloning(checkpoint)) if fitted else None
    scored = score_log(checkpoint.actor, rows, behavior=behavior)
    if not fitted and not is_known.all():
        scored = _with_unknown(scored, data, ~is_known)
    estimates = {name: estimator(scored) for name, estimator in ESTIMATORS.items()}
    own = logging_value(scored)
    return PolicyValue(estimates, own, against(estimates, own), fitted)


def _with_unknown(scored: LoggedRows, data: SplitLog, unknown: torch.Tensor) -> LoggedRows:
    """With the rows of items that the policy does not know: it would never show them."""
    test = data.test
    count = int(unknown.sum())
    columns = {
        "reward": data.held_out.quality[unknown].double(),
        "log_target": torch.full((count,), -torch.inf, dtype=torch.double),
        "log_behavior": test.column("log_propensity")[unknown].double(),
    }
    joined = {name: torch.cat([getattr(scored, name), each]) for name, each in columns.items()}
    cluster = None
    if scored.cluster is not None:
        cluster = torch.cat([scored.cluster, data.held_out.user[unknown]])
    return LoggedRows(**joined, cluster=cluster)


def _cloning(checkpoint: PolicyCheckpoint) -> Cloning:
    model = checkpoint.model
    return Cloning(
        lambda: make_catalogue_actor(
            model["num_items"],
            dim=model["dim"],
            history=model["history"],
            context_sizes=model["context_sizes"],
            num_features=model.get("num_features", 0),
        ),
        steps=CLONING_STEPS,
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
