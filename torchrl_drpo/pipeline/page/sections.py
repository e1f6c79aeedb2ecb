"""The page of one run, section by section; a section without numbers is not there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchrl_drpo.pipeline.page import figures
from torchrl_drpo.pipeline.page.advice import (
    best_policies,
    commands,
    hints,
    hits_and_lift,
    infinite_lifts,
)
from torchrl_drpo.pipeline.page.folder import Run
from torchrl_drpo.pipeline.reward_model.log_reward import reward_warnings
from torchrl_drpo.report.formats import number
from torchrl_drpo.report.html import html_facts, html_page, html_table, plain
from torchrl_drpo.report.svg import STYLE, colours_css, figure_html, legend, swatch
from torchrl_drpo.report.tables import Table
from torchrl_drpo.spelling import counted

#: By which a page of ours is known.
GENERATOR = '<meta name="generator" content="torchrl-drpo run page">'
_STYLE = (
    STYLE
    + """
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
pre { background: var(--soft); border-radius: 4px; padding: .7rem .9rem; overflow-x: auto;
  font-size: .85rem; line-height: 1.7; }
pre code { padding: 0; background: none; }
table:not(.prose) td { white-space: nowrap; }
.warn { border-left: 4px solid var(--part); padding: .1rem 0 .1rem .8rem; }
.stop { border-left: 4px solid var(--not); padding: .1rem 0 .1rem .8rem; font-weight: 600; }
h1, h2, h3, p, li, figcaption { overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { padding: 1rem; } th, td { padding: .3rem .45rem; } }
"""
)


def run_page(run: Run) -> str:
    """The page of a run, the same for the same numbers in the same folder."""
    made = [
        ("log", "The log", _log(run)),
        ("table", "What was found", _table(run)),
        ("lift", "Lift and hits", _scatter(run)),
        ("contexts", "Contexts", _contexts(run)),
        ("values", "Off-policy values", _values(run)),
        ("model", "The reward model", _model(run)),
        ("curves", "Training curves", _curves(run)),
        ("next", "What to do next", _next(run)),
        ("settings", "Settings", _settings(run)),
    ]
    settings = run.results.config
    log = settings.get("logs") or settings.get("dataset") or ""
    return whole_page(str(log), made, str(run.folder))


def whole_page(
    log: str, sections: Iterable[tuple[str, str, Iterable[str]]], where: str, head: str = "Run on"
) -> str:
    """Sections (anchor, title, blocks of HTML) as a page; those without blocks are left out."""
    there = [(name, title, blocks) for name, title, made in sections if (blocks := list(made))]
    links = "".join(f'<li><a href="#{name}">{plain(title)}</a></li>' for name, title, _ in there)
    title = f"{head} {log}".strip()
    body = [f"<h1>{plain(title)}</h1>", f'<p class="dim">{plain(where)}</p>']
    body.append(f"<nav><ul>{links}</ul></nav>")
    for name, heading, blocks in there:
        body += [f'<h2 id="{name}">{plain(heading)}</h2>', *blocks]
    return html_page(title, body, _STYLE + colours_css("\n".join(body)), head=GENERATOR + "\n")


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph of a class."""
    return f'<p class="{kind}">{plain(text)}</p>' if kind else f"<p>{plain(text)}</p>"


def method_legend(run: Run, names: Sequence[str], *, points: bool) -> str:
    """A legend of methods: their lines, or their points."""
    entries = []
    for name in names:
        learned = name in run.objectives
        mark = figures.marker(name, learned) if points else ""
        drawn = swatch(figures.shown(name), marker=mark, filled=learned)
        entries.append((drawn, name if learned or not points else f"{name} (learns nothing)"))
    return legend(entries)


def log_facts(run: Run) -> list[tuple[str, str]]:
    """What a log is, in names and values."""
    data, parts = run.results.data, run.results.parts
    facts = [("rows", f"{data['rows']:,}")]
    if data.get("users"):
        facts.append(("users", f"{data['users']:,}"))
    facts.append(("items", f"{data['items']:,}"))
    days = run.further("days")
    if days:
        facts.append(("days", f"{days[0]} to {days[1]}"))
    if data.get("duplicates"):
        facts.append(("exact duplicates left out", f"{data['duplicates']:,}"))
    for kind, count in (data.get("dropped") or {}).items():
        facts.append((f"faulty rows left out: {kind}", f"{count:,}"))
    facts += [
        ("training", parts.train.say(parts.constant)),
        (f"held out ({parts.held_out})", parts.test.say(parts.constant)),
        (
            "new in the held-out rows",
            f"{counted(parts.cold_rows, 'row')} ({parts.cold_rows / max(parts.test.rows, 1):.1%}) "
            f"of {counted(parts.cold_items, 'item')} that training never showed; "
            f"{counted(parts.cold_users, 'new user')}",
        ),
    ]
    quality = run.further("mean_quality")
    if quality:
        means = f"{quality['train']:.4g} in training, {quality['test']:.4g} held out"
        facts.append(("mean quality", means))
    return facts


def _log(run: Run) -> Iterator[str]:
    yield html_facts(log_facts(run))
    for line in run.results.parts.warnings:
        yield paragraph(line, "warn")
    for line in run.lost:
        yield paragraph(line, "warn")


def full_table(run: Run) -> Table:
    """The table of ``drpo train``, with a row of what the log itself showed."""
    table = run.results.table()
    quality = run.further("mean_quality")
    name = "top-100 quality ↑"
    if not quality or name not in table.header:
        return table
    row = [""] * len(table.header)
    row[0], row[table.header.index(name)] = "the log itself", f"{quality['test']:.3f}"
    note = f"{table.note} The log itself: the mean quality of the held-out rows, as they were."
    return replace(table, rows=[*table.rows, row], note=note)


def _table(run: Run) -> Iterator[str]:
    yield html_table(full_table(run))
    best = best_policies(run)
    if best and len(run.objectives) > 1:
        lift = "lift within contexts" if hits_and_lift(run)[1].endswith("_within") else "lift"
        left = infinite_lifts(run)
        aside = f" Left out, their lift being infinite: {', '.join(left)}." if left else ""
        yield paragraph(
            f"In the means, no other trained policy has both more hits of best rows and more "
            f"{lift} than: {', '.join(best)}.{aside}"
        )


def _has_within(run: Run) -> bool:
    name = f"lift@{run.results.k}_within"
    return any(
        name in values and math.isfinite(values[name].mean)
        for values in run.results.summary.values()
    )


def _scatter(run: Run) -> Iterator[str]:
    k = run.results.k
    kinds = [(f"lift@{k}", False)] + ([(f"lift@{k}_within", True)] if _has_within(run) else [])
    drawn, names = [], []
    for metric, within in kinds:
        places = figures.points(run, metric)
        if places:
            drawn.append(figure_html(figures.scatter(metric, places, k, within)))
            names += [point.name for point in places if point.name not in names]
    if not drawn:
        return
    seeds = run.seeds
    over = "seeds" if seeds > 1 else ("users" if run.results.data.get("users") else "rows")
    text = (
        f"Bars are 95% intervals over {over}. Up is telling good rows from poor ones, to the right "
        "is hitting what was good. The dotted line is a lift of 1: best and worst rows are hit "
        "alike."
    )
    left = [name for name in run.results.summary if name not in names]
    text += f" Without a finite lift, and not drawn: {', '.join(left)}." if left else ""
    yield paragraph(text)
    yield method_legend(run, names, points=True)
    yield panels(drawn)


def panels(drawn: Sequence[str]) -> str:
    """Figures side by side, or below each other where there is no room."""
    return f'<div class="panels">{"".join(drawn)}</div>'


def _contexts(run: Run) -> Iterator[str]:
    contexts = run.further("contexts")
    if not contexts or not contexts["summary"]:
        return
    text = (
        f"Hit rates (HR@{contexts['k']}) by {', '.join(contexts['columns'])}: the bar is that on "
        "the best rows, with its 95% interval; the upright mark that on the worst. All have one "
        "scale."
    )
    if contexts["left_out"]:
        text += f" {counted(contexts['left_out'], 'context')} with fewer best rows not drawn."
    yield paragraph(text)
    yield panels([figure_html(f, title) for f, title in figures.context_figures(contexts)])


def _values(run: Run) -> Iterator[str]:
    values = run.results.values
    if values is None:
        return
    found = values.to_json()
    yield paragraph(values.note)
    figure = figures.value_figure(values.logging, found["summary"], values.estimator)
    if figure is not None:
        yield paragraph(
            "The band is the log's own mean with its interval. Hollow points are meaningless by "
            "the estimator's own diagnostics."
        )
        yield panels([figure_html(figure)])
    rows = [
        [name, *(_known(each[end]) for end in ("value", "low", "high")), each["verdict"]]
        for name, each in found["summary"].items()
    ]
    header = ["policy", f"value ({values.estimator})", "low", "high", "verdict"]
    yield html_table(Table("Mean quality a row, estimated", header, rows))


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _model(run: Run) -> Iterator[str]:
    facts = run.results.reward_model
    if facts is None:
        return
    whole, state = facts["explained_variance"], facts["explained_variance_of_state"]
    yield paragraph(
        f"It explains {whole:.1%} (standard error {facts['explained_variance_error']:.1%}) of the "
        f"variance of quality in {facts['rows']:,} training rows, each judged by one of "
        f"{facts['folds']} models that saw nothing of its fold of {facts['folds_of']}; without the "
        f"item {state:.1%}."
    )
    for line in reward_warnings(facts):
        yield paragraph(line, "warn")
    bins = run.further("reward_calibration")
    if not bins:
        return
    yield paragraph(
        "Out-of-fold predictions of the training rows in bins of about as many rows: on the dotted "
        "line, what was predicted is what was logged. Bars are 95% intervals"
        f"{', users being drawn' if run.results.data.get('users') else ''}."
    )
    if len(bins) > 1:
        yield panels([figure_html(figures.calibration_figure(bins))])
    rows = [
        [
            f"{place + 1}",
            f"{each['rows']:,}",
            number(each["predicted"], 4),
            number(each["observed"], 4),
            "-" if each["half_width"] is None else number(each["half_width"], 4),
        ]
        for place, each in enumerate(bins)
    ]
    header = ["bin", "rows", "predicted", "logged", "± (95%)"]
    yield html_table(Table("Calibration", header, rows))


def _curves(run: Run) -> Iterator[str]:
    if run.results.stops:
        yield _listed(run.results.stop_sentences)
    if not run.curves:
        return
    names = [o for o in run.objectives if any(o in of for of in run.curves.values())]
    text = "One value of one batch at every logged step."
    if run.seeds > 1:
        text = f"Means over {run.seeds} seeds, with their range as a band. {text}"
    yield paragraph(f"{text} Losses of different objectives are in different units.")
    yield method_legend(run, names, points=False)
    yield panels([figure_html(figure) for figure in figures.curve_figures(run.curves)])


def _next(run: Run) -> Iterator[str]:
    said = hints(run)
    if said:
        yield _listed(said)
    for name, lines in commands(run):
        code = "\n".join(plain(line) for line in lines)
        yield f"<h3>{plain(name)}</h3>\n<pre><code>{code}</code></pre>"


def _listed(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{plain(line)}</li>" for line in lines) + "</ul>"


def settings_of(run: Run) -> dict[str, str]:
    """The settings by name, those of parts by the part's name and theirs."""
    return dict(_flat(run.results.config))


def _settings(run: Run) -> Iterator[str]:
    yield html_facts(list(settings_of(run).items()))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            yield f"{before}{name}", " ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", value if isinstance(value, str) else json.dumps(value)
