"""One page that compares several runs, as far as their held-out rows are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchrl_drpo.pipeline.page import figures
from torchrl_drpo.pipeline.page.folder import Run
from torchrl_drpo.pipeline.page.sections import (
    full_table,
    log_facts,
    panels,
    paragraph,
    settings_of,
    whole_page,
)
from torchrl_drpo.report.html import html_table
from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.methods import Method
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.report.svg import INK, PAPER, figure_html, legend, swatch
from torchrl_drpo.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Of runs in order; a page of more runs begins again, and its labels tell them apart.
MARKERS = ("o", "s", "^", "D", "v", "P")


def comparison_page(runs: Sequence[Run]) -> str:
    """The page of several runs; one shared picture only where all were judged by the same rows."""
    names = run_names([run.folder for run in runs])
    warning = rows_differ(runs)
    made = [
        ("rows", "What they were judged by", _rows(names, runs, warning)),
        ("table", "Methods and runs", _table(names, runs)),
        ("lift", "Lift and hits", [] if warning else _scatter(names, runs)),
        ("settings", "Settings that differ", _settings(names, runs)),
        ("log", "Logs", _logs(names, runs)),
    ]
    where = "; ".join(f"{name}: {run.folder}" for name, run in zip(names, runs, strict=True))
    return whole_page("", made, where, head=f"{len(runs)} runs compared")


def run_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart.

    Example:
        >>> run_names([Path("a/x"), Path("b/x"), Path("b/y")])
        ['a/x', 'b/x', 'b/y']
    """
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def rows_differ(runs: Sequence[Run]) -> str:
    """Why the runs' numbers cannot be compared; empty where they can."""
    names = run_names([run.folder for run in runs])
    marks = [run.further("held_out_rows") for run in runs]
    unknown = [name for name, mark in zip(names, marks, strict=True) if mark is None]
    if unknown:
        return (
            f"Whether these runs were judged by the same rows is not known: {', '.join(unknown)} "
            "was written by an earlier release, which kept no fingerprint of them; train again "
            "into the same folder, and finished runs are read"
        )
    if len(set(marks)) == 1:
        return ""
    groups: dict[str, list[str]] = {}
    for name, mark in zip(names, marks, strict=True):
        groups.setdefault(mark, []).append(name)
    listed = " | ".join(", ".join(group) for group in groups.values())
    return (
        "These runs were judged by different held-out rows (or by the same rows with another "
        f"quality), so their numbers do not compare: {listed}"
    )


def _rows(names: Sequence[str], runs: Sequence[Run], warning: str) -> Iterator[str]:
    if warning:
        yield paragraph(f"{warning}.", "stop")
    else:
        rows = runs[0].results.parts.test.say(runs[0].results.parts.constant)
        yield paragraph(f"All were judged by the same held-out rows: {rows}.")
    if len({run.results.k for run in runs}) > 1:
        lengths = ", ".join(f"{n}: {r.results.k}" for n, r in zip(names, runs, strict=True))
        yield paragraph(
            f"Their lists differ in length, and so do their hit rates: {lengths}.", "warn"
        )


def _table(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    tables = [full_table(run) for run in runs]
    header = list(dict.fromkeys(each for table in tables for each in table.header[1:]))
    methods = list(dict.fromkeys(row[0] for table in tables for row in table.rows))
    rows = []
    for method in methods:
        for name, table in zip(names, tables, strict=True):
            found = {row[0]: dict(zip(table.header, row, strict=False)) for row in table.rows}
            if method in found:
                rows.append([method, name, *(found[method].get(each, "") for each in header)])
    notes = list(dict.fromkeys(table.title for table in tables))
    note = "; ".join(notes) + ". " + tables[0].note
    yield html_table(Table("", ["policy", "run", *header], rows, note=note))


def _scatter(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    k = runs[0].results.k
    if any(run.results.k != k for run in runs):
        return
    drawn, seen, there = [], {}, set()
    for metric, within in ((f"lift@{k}", False), (f"lift@{k}_within", True)):
        places = [(n, point) for n, run in enumerate(runs) for point in figures.points(run, metric)]
        if places:
            drawn.append(figure_html(_points(metric, places, k, within)))
            seen |= {point.name: point.learned for _, point in places}
            there |= {(run, point.name) for run, point in places}
    if not drawn:
        return
    left = [
        f"{method} ({names[n]})"
        for n, run in enumerate(runs)
        for method in run.results.summary
        if (n, method) not in there
    ]
    text = (
        "A colour a method, a marker a run; what learns nothing is hollow. Bars are 95% intervals, "
        "over seeds where a run has several, else over users or rows."
    )
    text += f" Without a finite lift, and not drawn: {', '.join(left)}." if left else ""
    yield paragraph(text)
    ink = Method("", "#59616b")
    marks = [(swatch(ink, marker=MARKERS[n % len(MARKERS)]), name) for n, name in enumerate(names)]
    yield legend(marks)
    yield legend((swatch(figures.shown(name)), name) for name in seen)
    yield panels(drawn)


def _points(name: str, places: Sequence[tuple[int, figures.Point]], k: int, within: bool) -> Figure:
    caption = "Lift within contexts against hits" if within else "Lift against hits"

    def draw(canvas: Canvas) -> None:
        (axes,) = axes_of(canvas, 1)
        axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        for run, point in places:
            colour = figures.shown(point.name).colour
            axes.errorbar(
                [point.hits.mean],
                [point.lift.mean],
                xerr=figures.width(point.hits),
                yerr=figures.width(point.lift),
                color=colour,
                marker=MARKERS[run % len(MARKERS)],
                markersize=7,
                markerfacecolor=colour if point.learned else PAPER,
                elinewidth=1.2,
                capsize=2,
                linestyle="none",
            )
        axes.set_xlabel(f"hit rate on best rows (HR@{k})")
        axes.set_ylabel("lift within contexts" if within else "lift (best : worst)")

    return Figure(name, caption, draw, figures.PANEL)


def _settings(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    table = _different(names, [settings_of(run) for run in runs], "setting")
    yield html_table(table) if table.rows else paragraph("They have the same settings.")


def _logs(names: Sequence[str], runs: Sequence[Run]) -> Iterator[str]:
    table = _different(names, [dict(log_facts(run)) for run in runs], "of the log")
    yield html_table(table) if table.rows else paragraph("What is known of their logs is the same.")


def _different(names: Sequence[str], facts: Sequence[dict[str, str]], what: str) -> Table:
    """The facts in which runs differ, a column a run; what one lacks is a dash."""
    keys = dict.fromkeys(key for each in facts for key in each)
    rows = [[key, *(each.get(key, "-") for each in facts)] for key in keys]
    return Table("", [what, *names], [row for row in rows if len(set(row[1:])) > 1])
