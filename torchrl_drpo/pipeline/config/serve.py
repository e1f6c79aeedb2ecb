"""The settings of the commands that take a trained policy: ``drpo evaluate`` and ``recommend``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchrl_drpo.pipeline.config.words import Id, Names


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained policy on the last days of a log.

    Attributes:
        checkpoint: folder of the policy, as `drpo train` writes it.
        logs: Parquet or CSV file, folder, glob or URI of the log.
        test_days: the last so many days are evaluated; quality is fitted on the days before.
        labels: 0/1 columns of the schema for GAUC; all of them by default.
        ks: list lengths of the hit rates; the table shows the last one.
        ope: also estimate what the policy would have earned, from the log's propensities or, where
            it has none, from a model of the logging policy; exit code 1 if no estimate means
            anything.
        json: print the results as JSON instead of a table.
    """

    checkpoint: Path
    logs: str
    test_days: int = 3
    labels: Names = None
    ks: tuple[int, ...] = (10, 50)
    ope: bool = False
    json: bool = False


@dataclass(frozen=True)
class RecommendConfig:
    """Recommend items to one user of the log, or to somebody new.

    Attributes:
        checkpoint: directory of a trained policy, as `drpo train` writes it.
        user: the user's id, as in the log; left out, the list for somebody of whom nothing is
            known.
        k: how many items.
        exclude_seen: leave out what the user has seen in the log.
        cold_start: give an unknown user the list for an empty history, instead of an error.
        json: print the list as JSON instead of a table.
        context: the user's situation now, instead of the latest one in the log: a value of each
            context column, in the schema's order, as in the log. One that the log does not hold
            counts as unknown.
        features: the same of the numeric features, in their raw units.
    """

    checkpoint: Path
    user: Id = None
    k: int = 10
    exclude_seen: bool = True
    cold_start: bool = False
    json: bool = False
    context: tuple[str, ...] = ()
    features: tuple[float, ...] = ()
