"""The figures of a run's page, of saved numbers alone; what is not there is not drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline.page.folder import Curve, Run
from torchrl_drpo.pipeline.table import number_from
from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.methods import Method, method
from torchrl_drpo.report.plots import axes_of, draw_curves
from torchrl_drpo.report.svg import INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PANEL = (4.7, 3.1)
#: By line style, the marker of a policy, and that of a ranking that learns nothing.
_LEARNED = {"-": "o", "--": "^", ":": "v", "-.": "D"}
_BASELINE = {"-": "s", "--": "P"}
#: Of curves, what their axis says; others have their name there.
AXES = {
    "loss_actor": "loss",
    "kappa": "kappa, share of a batch",
    "threshold": "threshold, quality",
    "kept_fraction": "rows kept, share of a batch",
    "kept_mean_quality": "mean quality of rows kept",
    "effective_sample_size": "effective rows a batch",
}
#: Beyond so many times the middle of its values' sizes, a curve is drawn on a bent scale.
_FAR = 1e3
#: What moves by less than this share of its size is drawn as what stays.
_STILL = 1e-4


def shown(name: str) -> Method:
    """How a method of a run is drawn."""
    try:
        return method(name)
    except KeyError:
        return Method(name, "#59616b")


def marker(name: str, learned: bool) -> str:
    """The marker of a method's point."""
    return (_LEARNED if learned else _BASELINE).get(shown(name).line, "o" if learned else "s")


class Point(NamedTuple):
    """Where a method stands.

    Attributes:
        name: the method.
        hits: hit rate on the best rows.
        lift: of the best rows' hit rate over the worst ones'.
        learned: whether it was trained.
        marker: of the point.
    """

    name: str
    hits: Interval
    lift: Interval
    learned: bool
    marker: str


def points(run: Run, lift: str) -> list[Point]:
    """The methods whose hits and lift are numbers; ``lift`` is a metric's name."""
    found = []
    for name, values in run.results.summary.items():
        hits, its = values.get(f"hr@{run.results.k}_best"), values.get(lift)
        if hits is None or its is None or not math.isfinite(hits.mean + its.mean):
            continue
        learned = name in run.objectives
        found.append(Point(name, hits, its, learned, marker(name, learned)))
    return found


def scatter(name: str, places: Sequence[Point], k: int, within: bool) -> Figure:
    """Lift against hits: what was trained filled, what learns nothing hollow."""
    caption = "Lift within contexts against hits" if within else "Lift against hits"

    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        for point in places:
            colour = shown(point.name).colour
            axes.errorbar(
                [point.hits.mean],
                [point.lift.mean],
                xerr=width(point.hits),
                yerr=width(point.lift),
                color=colour,
                marker=point.marker,
                markersize=7,
                markerfacecolor=colour if point.learned else PAPER,
                elinewidth=1.2,
                capsize=2,
                linestyle="none",
                zorder=3 if point.learned else 2,
            )
        axes.set_xlabel(f"hit rate on best rows (HR@{k})")
        axes.set_ylabel("lift within contexts" if within else "lift (best : worst)")

    return Figure(name, caption, draw, PANEL)


def curve_figures(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> list[Figure]:
    """A figure a quantity: every objective's mean over seeds with the seeds' range.

    What is nought throughout (a taper's, of objectives that have none) is left out.
    """
    curves = {name: moved for name, of in curves.items() if (moved := _moved(of))}
    first = [name for name in AXES if name in curves]
    rest = sorted(name for name in curves if name not in AXES)
    return [_curves(f"curve {n}", name, curves[name]) for n, name in enumerate([*first, *rest])]


def _moved(of: Mapping[str, Sequence[Curve]]) -> dict[str, Sequence[Curve]]:
    """The objectives of which any value is not 0."""
    return {
        objective: seeds
        for objective, seeds in of.items()
        if any(value != 0 for seed in seeds for _, value in seed)
    }


def _curves(stem: str, name: str, of: Mapping[str, Sequence[Curve]]) -> Figure:
    label = AXES.get(name, name.replace("_", " "))

    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        values = []
        for objective, seeds in of.items():
            steps = min(map(len, seeds))  # of all seeds, where one was logged for longer
            same = [seed[:steps] for seed in seeds]
            drawn = shown(objective)
            draw_curves(
                axes, same, objective, color=drawn.colour, linestyle=drawn.line, linewidth=1.8
            )
            values += [value for seed in same for _, value in seed if math.isfinite(value)]
        _scale(axes, values)
        axes.set_xlabel("gradient step")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return Figure(stem, label[0].upper() + label[1:], draw, PANEL)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Bends the scale of what runs away, and widens that of what stays, whose rounding shows."""
    sizes = sorted(map(abs, values))
    middle, most = sizes[len(sizes) // 2], sizes[-1]
    if middle and most > _FAR * middle:
        axes.set_yscale("symlog", linthresh=middle)
    if max(values) - min(values) < _STILL * most:
        axes.set_ylim(values[0] - most / 2, values[0] + most / 2)


def context_figures(contexts: Mapping[str, Any]) -> list[tuple[Figure, str]]:
    """A figure a context, all on one scale, with its title: bars of hits, marks of misses."""
    summary = {name: _intervals(kinds) for name, kinds in contexts["summary"].items()}
    ends = [
        value.mean + (value.half_width if math.isfinite(value.half_width) else 0.0)
        for kinds in summary.values()
        for values in kinds.values()
        for value in values
        if math.isfinite(value.mean)
    ]
    most = min(1.0, 1.05 * max(ends, default=1.0)) or 1.0
    found = []
    for place, group in enumerate(contexts["groups"]):
        rows = {name: {k: v[place] for k, v in kinds.items()} for name, kinds in summary.items()}
        figure = _context(f"context {place}", rows, contexts["k"], most)
        title = (
            f"{group['name']}: {group['rows']:,} rows, {group['best_rows']:,} best and "
            f"{group['worst_rows']:,} worst"
        )
        found.append((figure, title))
    return found


def _context(stem: str, rows: Mapping[str, Mapping[str, Interval]], k: int, most: float) -> Figure:
    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        names = list(rows)
        for place, name in enumerate(names):
            best, worst = rows[name]["best"], rows[name]["worst"]
            if math.isfinite(best.mean):
                axes.barh(place, best.mean, color=shown(name).colour, height=0.62)
                if math.isfinite(best.half_width):
                    axes.errorbar(
                        best.mean, place, xerr=width(best), color=INK, capsize=2, elinewidth=1
                    )
            if math.isfinite(worst.mean):
                axes.plot([worst.mean] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2.2)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, most)
        axes.set_xlabel(f"hit rate (HR@{k})")

    return Figure(stem, f"Hit rates of every method, {stem}", draw, (4.7, 0.9 + 0.24 * len(rows)))


def calibration_figure(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Observed against predicted reward, with the line where both are the same."""

    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        x = [each["predicted"] for each in bins]
        y = [each["observed"] for each in bins]
        both = [min(*x, *y), max(*x, *y)]
        axes.plot(both, both, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        widths = [each["half_width"] or 0.0 for each in bins]
        axes.errorbar(x, y, yerr=widths, color="#0072b2", marker="o", capsize=2, markersize=5)
        axes.set_xlabel("predicted quality, mean of the bin")
        axes.set_ylabel("logged quality, mean of the bin")

    return Figure("calibration", "The reward model: predicted and logged quality", draw, PANEL)


def value_figure(
    logging: Mapping[str, Any], summary: Mapping[str, Mapping[str, Any]], estimator: str
) -> Figure | None:
    """Off-policy values with intervals, beside the log's own; ``None`` where none is known."""
    known = {name: each for name, each in summary.items() if each["value"] is not None}
    if not known:
        return None

    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        low, high = number_from(logging["low"]), number_from(logging["high"])
        if math.isfinite(low + high):
            axes.axvspan(low, high, color=INK, alpha=0.12, linewidth=0)
        axes.axvline(number_from(logging["value"]), color=INK, linewidth=1, linestyle=(0, (2, 3)))
        for place, (name, each) in enumerate(known.items()):
            ends = [abs(number_from(each[end]) - each["value"]) for end in ("low", "high")]
            widths = [[ends[0]], [ends[1]]] if all(map(math.isfinite, ends)) else None
            method = shown(name)
            doubted = each["verdict"] == "meaningless"
            axes.errorbar(
                [each["value"]],
                [place],
                xerr=widths,
                color=method.colour,
                marker="o",
                markersize=6,
                markerfacecolor=PAPER if doubted else method.colour,
                capsize=2,
                linestyle="none",
            )
        axes.set_yticks(range(len(known)), list(known))
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlabel(f"mean quality a row, {estimator}")

    return Figure("values", "What the policies would have earned", draw, PANEL)


def _intervals(kinds: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[Interval]]:
    return {
        kind: [Interval(number_from(v["mean"]), number_from(v["half_width"]), 1) for v in values]
        for kind, values in kinds.items()
    }


def width(value: Interval) -> list[float] | None:
    """An interval's half width for matplotlib; ``None`` where it is not known."""
    return [value.half_width] if math.isfinite(value.half_width) else None
