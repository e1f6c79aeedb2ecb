"""The settings of stopping early, on rows inside the training period."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl_drpo.pipeline.config.words import Name


@dataclass(frozen=True)
class StoppingConfig:
    """When training stops: at the step that does best on rows held out of the training rows.

    Attributes:
        early_stopping: choose each run's steps on validation rows, the latest of the training rows
            (never on what is held out for the table); --steps are the most that are tried.
        validation_days: where days are held out: the last so many of the training days; by default
            3, or fewer where less than half of them would be left.
        validation_share: where a share is held out: this share of the training rows, taken in the
            same way; by default as large a share. A split column's part "validation" or "valid" is
            taken as it is.
        validation_metric: what is to be largest, by its name in results.json, such as lift@50 or
            hr@10_best; by default ndcg@K_best of the longest list: good rows near the top. A lift
            over less than one hit of a worst row counts one: an infinite one wins nothing.
        validation_rows: judged by at most so many of these rows, evenly chosen.
        evaluate_every: steps between two looks at them.
        patience: looks without a new best after which a run stops.
        refit: train anew on all training rows, for as many steps as were best; else the policy of
            the best step serves, which has not learned from the validation rows.
    """

    early_stopping: bool = False
    validation_days: int | None = None
    validation_share: float | None = None
    validation_metric: Name = None
    validation_rows: int = 20_000
    evaluate_every: int = 100
    patience: int = 5
    refit: bool = True

    def __post_init__(self) -> None:
        for name in ("validation_rows", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.validation_days is not None and self.validation_share is not None:
            raise ValueError("give --validation-days or --validation-share, not both")
        if self.validation_days is not None and self.validation_days < 1:
            raise ValueError(f"validation_days must be at least 1, got {self.validation_days}")
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must lie in (0, 1), got {self.validation_share}")

    def check_used(self) -> None:
        """Raises ``ValueError`` for options that say how to stop early where nothing does."""
        if not self.early_stopping and self != StoppingConfig():
            name = next(n for n, v in vars(self).items() if v != getattr(StoppingConfig, n))
            raise ValueError(
                f"--{name.replace('_', '-')} says how training stops early: give --early-stopping, "
                "too"
            )

    def metric(self, longest: int) -> str:
        """What is to be largest, of lists of up to ``longest`` items."""
        return self.validation_metric or f"ndcg@{longest}_best"
