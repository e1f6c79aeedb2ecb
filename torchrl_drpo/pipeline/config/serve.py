"""The settings of the commands that take a trained policy: ``drpo evaluate`` and ``recommend``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchrl_drpo.pipeline.config.log import check_dataset, check_split
from torchrl_drpo.pipeline.config.words import Id, Log, Name, Names


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained policy on the last days of a log.

    Attributes:
        checkpoint: folder of the policy, as `drpo train` writes it.
        logs: Parquet or CSV file, folder, glob or URI of the log.
        dataset: or: a published log by its name; the columns mean what they did in training.
        root: folder of the published files.
        test_days: the last so many days are evaluated, and quality is fitted on the rows before;
            where neither it nor the two below are given, what was held out in training is.
        test_start: or: the first day that is evaluated, YYYY-MM-DD.
        test_share: or: about this share of the rows.
        test_by: how a share is taken: the log's latest rows ("time", the default), each user's
            latest ("user"), or any ("random").
        test_seed: of the draw.
        labels: 0/1 columns of the schema for GAUC; all of them by default.
        ks: list lengths of the hit rates; the table shows the last one.
        details: also metrics by the user's activity and by the item's popularity, what the policy's
            lists do to the catalogue (coverage, Gini, novelty, share of the popular, diversity)
            and, where the log has propensities, metrics as they would be had every item been shown
            alike.
        ope: also estimate what the policy would have earned, from the log's own actions; where no
            such estimate means anything, the exit code is 1.
        behavior: how likely the logging policy was to take its actions, for --ope: "logged" takes
            the log's propensities, "fitted" those of a model that is fitted to the held-out rows,
            "weights" reads none and fits the weights themselves, by telling the policy's actions
            from the logged ones (better for a logger of thousands of items and a good reward
            model), "auto" the logged ones where there are any, else fitted ones.
        reward_model: for --ope: "auto" also gives the estimates that follow a model of the reward,
            the one that the policy's run has left or else one that is fitted to the log's earlier
            days; "none" leaves them out.
        draws: so many draws of the policy a row give the reward model's expectation for --ope; 0
            adds up over all items, or draws 16 of a policy over semantic IDs.
        ope_rows: --ope scores so many held-out rows at most, drawn at random.
        plot: PNG file: of --ope the estimates with their intervals, and the weights that they rest
            on; of --details the hit rates by activity and popularity.
        json: print the results as JSON instead of a table.
    """

    checkpoint: Path
    logs: Log = None
    dataset: Name = None
    root: Path | None = None
    test_days: int | None = None
    test_start: Name = None
    test_share: float | None = None
    test_by: Literal["time", "user", "random"] | None = None
    test_seed: int = 0
    labels: Names = None
    ks: tuple[int, ...] = (10, 50)
    details: bool = False
    ope: bool = False
    behavior: Literal["auto", "logged", "fitted", "weights"] = "auto"
    reward_model: Literal["auto", "none"] = "auto"
    draws: int = 0
    ope_rows: int = 50_000
    plot: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        check_dataset(self)
        check_split(self)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must name list lengths of at least 1, got {self.ks}")
        if self.draws < 0:
            raise ValueError(f"draws must be at least 0 a row, got {self.draws}")
        if self.ope_rows < 2:
            raise ValueError(f"ope_rows must be at least 2, got {self.ope_rows}")
        if self.plot is not None and not (self.ope or self.details):
            raise ValueError("--plot draws what --ope and --details find: ask for one of them")


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
