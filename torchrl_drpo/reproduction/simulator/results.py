"""What the sections of the simulator's targets share: numbers by seed, verdicts, axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.plots import COLOURS
from torchrl_drpo.reproduction.controlled.results import versus
from torchrl_drpo.reproduction.kuairand.frontier import holm, paired_p_value
from torchrl_drpo.reproduction.published import ECPM
from torchrl_drpo.reproduction.target import Results, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: How far a reproduced number may lie from the published one.
TOLERANCE = 0.10
COLOUR = {
    **COLOURS,
    "CRR": "#8C564B",
    "BPPO": "#CC79A7",
    "AWR": "#0072B2",
    "IQL": "#F0E442",
    "AsymRE": "#7F3C8D",
    "Adaptive BC": "#66C2A5",
    "DRPO-Exp": "#1B4D3E",
    "tapered": "#000000",
}


def late(results: Results, cell: str, metric: str = "retrieved_reward") -> list[float]:
    """A cell's late-window number of each seed; NaN where it was not finite."""
    values = results[cell]["result"]["metrics"][metric]
    return [math.nan if value is None else value for value in values]


def finite(values: Sequence[float]) -> bool:
    """Whether no seed's policy broke down.

    >>> finite([0.3, 0.2]), finite([0.3, math.nan])
    (True, False)
    """
    return all(map(math.isfinite, values))


def mean(results: Results, cell: str, metric: str = "retrieved_reward") -> float:
    """Mean of :func:`late`."""
    return mean_interval(late(results, cell, metric)).mean


def curve(
    results: Results, cell: str, metric: str = "retrieved_reward"
) -> tuple[list[int], list[float]]:
    """Steps, and the mean over seeds at each."""
    points = results[cell]["result"]["curves"][metric]
    return [step for step, _ in points], [math.nan if v is None else v for _, v in points]


def end(results: Results, cell: str, which: str) -> float:
    """Mean reward of ``"random"`` or ``"oracle"`` in a cell's worlds."""
    return mean_interval(results[cell]["result"]["ends"][which]).mean


def ecpm(values: Sequence[float]) -> list[float]:
    """The paper's unit."""
    return [ECPM * value for value in values]


def gap(found: float, published: float) -> float:
    """Relative distance from the published number."""
    return found / published - 1


def verdict(parts: Sequence[bool]) -> Verdict:
    """Of a claim with several parts.

    >>> verdict([True, True]), verdict([True, False]), verdict([False])
    ('held', 'held in part', 'not held')
    """
    if not parts:
        return "not tested"
    return "held" if all(parts) else "held in part" if any(parts) else "not held"


def corrected(values: Mapping[str, Sequence[float]], base: Sequence[float]) -> dict[str, float]:
    """Holm-corrected p values of the paired differences to ``base``."""
    differences = {
        name: [a - b for a, b in zip(those, base, strict=True)] for name, those in values.items()
    }
    return holm({name: paired_p_value(those) for name, those in differences.items()})


def compared(values: Sequence[float], base: Sequence[float]) -> str:
    """A paired difference for a sentence.

    >>> compared([1.0, 2.0], [0.5, 1.5])
    '+0.500 ± 0.000'
    """
    found = versus(values, base)
    return f"{found.mean:+.3f} ± {found.half_width:.3f}"


def axes_of(canvas: Canvas, columns: int, **options: Any) -> Sequence[Axes]:
    """A row of plain axes."""
    row = canvas.subplots(1, columns, squeeze=False, **options)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
    return list(row)


def line(
    axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Means with their intervals along x, one list of seeds at each place."""
    found = [mean_interval(values) for values in rows]
    style = {"color": COLOUR.get(label), "marker": "o", "markersize": 3, "capsize": 2, **style}
    axes.errorbar(
        x, [f.mean for f in found], yerr=[f.half_width for f in found], label=label, **style
    )
