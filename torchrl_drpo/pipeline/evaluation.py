"""What ``drpo evaluate`` found, as JSON data, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.details import BucketMetrics, Details
from torchrl_drpo.pipeline.policy_value import PolicyValue
from torchrl_drpo.report.evaluation import draw_estimates, draw_rates, draw_weights
from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.methods import SERIES
from torchrl_drpo.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NOTE = "Intervals are 95%, over users (over rows, where the log has none)."
#: Draws two panels beside each other.
Panels = Callable[["Axes", "Axes"], None]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a policy and of the rankings that need none, on the same rows.

    Attributes:
        intervals: by method (random, popularity and the objective's name) and metric, its value
            and half the width of its interval, which is NaN for random.
        rows: how many held-out rows were evaluated.
        unknown_rows: how many were not, since the policy does not know their item.
        k: list length of the table.
        details: whom the policy serves and what it shows, where that was asked for.
        value: what the policy would have earned, where that was asked for.
        warnings: what makes all of it doubtful, in sentences.
    """

    intervals: dict[str, dict[str, Interval]]
    rows: int
    unknown_rows: int
    k: int
    details: Details | None = None
    value: PolicyValue | None = None
    warnings: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By method and metric, the values alone."""
        return {
            method: {name: found.mean for name, found in each.items()}
            for method, each in self.intervals.items()
        }

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        halves = {
            method: {name: report.number(found.half_width) for name, found in each.items()}
            for method, each in self.intervals.items()
        }
        out: dict[str, Any] = {
            "rows": self.rows,
            "unknown_rows": self.unknown_rows,
            "metrics": {name: report.metrics_json(each) for name, each in self.metrics.items()},
            "half_widths": halves,
        }
        if self.warnings:
            out["warnings"] = list(self.warnings)
        if self.details is not None:
            out["details"] = self.details.to_json()
        if self.value is not None:
            out["off_policy"] = self.value.to_json()
        return out

    def tables(self) -> list[Table]:
        """The main table, and those of the details."""
        title = f"{self.rows:,} held-out rows ({self.unknown_rows:,} of unknown items left out)"
        main = report.table(self.intervals, title, self.k, upright=True, remark=NOTE)
        return [main, *([] if self.details is None else self.details.tables())]

    def figure(self) -> Figure:
        """Estimates and weights, hit rates by activity and popularity, as far as there are any.

        Raises:
            ValueError: if there are neither.
        """
        rows: list[Panels] = []
        if self.value is not None:
            rows.append(self._draw_value)
        if self.details is not None:
            rows.append(self._draw_buckets)
        if not rows:
            raise ValueError("an evaluation without estimates or details has no figure")

        def draw(canvas: Canvas) -> None:
            grid = canvas.subplots(len(rows), 2, squeeze=False, width_ratios=(3, 2))
            for (left, right), panels in zip(grid, rows, strict=True):
                for axes in (left, right):
                    axes.spines[["top", "right"]].set_visible(False)
                    axes.grid(color="#eeeeee")
                    axes.set_axisbelow(True)
                panels(left, right)

        caption = "Estimates with 95% intervals, weights, and hit rates by groups of rows."
        return Figure("evaluation", caption, draw, size=(10.0, 3.6 * len(rows)))

    def _draw_value(self, left: Axes, right: Axes) -> None:
        assert self.value is not None
        draw_estimates(left, self.value.estimates, self.value.logging)
        draw_weights(right, self.value.rows.log_ratio)

    def _draw_buckets(self, left: Axes, right: Axes) -> None:
        assert self.details is not None
        parts = (
            (left, self.details.by_popularity, "item"),
            (right, self.details.by_activity, "user"),
        )
        for axes, buckets, what in parts:
            if not buckets:
                axes.set_axis_off()
                continue
            self._draw_hit_rates(axes, buckets)
            axes.set_title(f"By how often the {what} was logged")

    def _draw_hit_rates(self, axes: Axes, buckets: list[BucketMetrics]) -> None:
        policy = list(buckets[0].methods)[-1]
        best, worst = f"hr@{self.k}_best", f"hr@{self.k}_worst"
        series = {
            f"{policy}, best rows": [each.methods[policy][best] for each in buckets],
            f"{policy}, worst rows": [each.methods[policy][worst] for each in buckets],
            "popularity, best rows": [each.methods["popularity"][best] for each in buckets],
        }
        labels = [str(each.bucket).replace(" (", "\n(") for each in buckets]
        draw_rates(axes, labels, series, (SERIES[0], SERIES[2], "#999999"))
        axes.set_ylabel(f"HR@{self.k}")
