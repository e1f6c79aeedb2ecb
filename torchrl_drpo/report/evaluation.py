"""Figures of an evaluation: estimates with their intervals, weights, rates by groups of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from torchrl_drpo.evaluation.off_policy import Estimate
from torchrl_drpo.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: One colour a verdict, beside the word.
COLOURS = {"usable": "#117733", "weak": "#B8860B", "meaningless": "#C2003A"}
_LOG = "#555555"


def draw_estimates(axes: Axes, estimates: Mapping[str, Estimate], logging: Estimate) -> None:
    """A row an estimate, with its interval and its verdict; the log's own value as a band.

    Args:
        axes: empty.
        estimates: by name; without an interval (the direct method) a hollow point.
        logging: what the log earned.
    """
    axes.axvspan(logging.low, logging.high, color=_LOG, alpha=0.15, linewidth=0)
    axes.axvline(logging.value, color=_LOG, linewidth=1, label="the log itself, 95%")
    for row, each in enumerate(estimates.values()):
        colour = COLOURS[each.verdict]
        if math.isfinite(each.low):
            axes.plot([each.low, each.high], [row, row], color=colour, linewidth=2)
            axes.plot(each.value, row, "o", color=colour)
        else:
            axes.plot(each.value, row, "o", color=colour, fillstyle="none")
    axes.set_yticks(range(len(estimates)), list(estimates))
    for row, each in enumerate(estimates.values()):
        axes.annotate(
            each.verdict,
            (1.01, row),
            xycoords=("axes fraction", "data"),
            color=COLOURS[each.verdict],
            va="center",
            fontsize=9,
        )
    axes.set_xlim(*_limits([*estimates.values(), logging]))
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.set_xlabel("mean quality a row")
    axes.locator_params(axis="x", nbins=6)  # small numbers are long
    axes.set_title("What the policy would have earned")
    axes.legend(fontsize=8, loc="best")


def draw_weights(axes: Axes, log_ratio: Tensor, bins: int = 40) -> None:
    """How many rows have which importance weight, by powers of ten.

    Args:
        axes: empty.
        log_ratio: logarithm of each row's weight, ``[N]``; ``-inf`` for an action that the policy
            never takes.
        bins: of the histogram.
    """
    taken = log_ratio[log_ratio.isfinite()] / math.log(10)
    axes.hist(taken.numpy(), bins=bins, color="#4477AA")
    axes.axvline(0, color=_LOG, linewidth=1, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("weight, as a power of ten")
    axes.set_ylabel("rows")
    never = len(log_ratio) - len(taken)
    axes.set_title("Weights" + (f" ({never:,} rows have none)" if never else ""))


def draw_rates(
    axes: Axes,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Interval]],
    colours: Sequence[str],
) -> None:
    """Rates of several groups of rows with their intervals, one series beside the other.

    Args:
        axes: empty.
        labels: of the groups.
        series: by name, a rate for each group; what is not finite is left out.
        colours: of the series.
    """
    step = 0.6 / max(1, len(series))
    for number, (name, rates) in enumerate(series.items()):
        place = [x + step * (number - (len(series) - 1) / 2) for x in range(len(labels))]
        there = [(x, r) for x, r in zip(place, rates, strict=True) if math.isfinite(r.mean)]
        axes.errorbar(
            [x for x, _ in there],
            [r.mean for _, r in there],
            yerr=[r.half_width if math.isfinite(r.half_width) else 0.0 for _, r in there],
            fmt="o",
            capsize=3,
            color=colours[number],
            label=name,
        )
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="best")


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """What the axis shows: all values, and the intervals of all that is not meaningless.

    An interval that says nothing may be wide enough to squeeze all others into a dot.
    """
    ends = [each.value for each in estimates]
    for each in estimates:
        if each.verdict != "meaningless" and math.isfinite(each.low):
            ends += [each.low, each.high]
    low, high = min(ends), max(ends)
    edge = 0.05 * (high - low) or 0.5
    return low - edge, high + edge
