"""From the records of cells to ``report.html``, ``report.md``, ``claims.json`` and figures."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.report.images import png, write_png
from torchrl_drpo.reproduction.document.html import to_html
from torchrl_drpo.reproduction.document.markdown import to_markdown
from torchrl_drpo.reproduction.document.report import Part, Report
from torchrl_drpo.reproduction.machine import summarise
from torchrl_drpo.reproduction.records import Record
from torchrl_drpo.reproduction.target import Cell, Options, Section, Target

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: More absent cells than these are counted, not named.
NAMED = 5


class Planned(NamedTuple):
    """A target with its cells under the options of this run."""

    target: Target
    cells: Sequence[Cell]


class Written(NamedTuple):
    """What was written, and the targets whose sections could not be drawn, with the reason."""

    report: Report
    failures: dict[str, str]


def write_report(
    plan: Sequence[Planned],
    options: Options,
    records: Mapping[str, Mapping[str, Record]],
    out: Path,
    failed: Mapping[str, str],
) -> Written:
    """Draws every target whose cells are all there, and writes the report to ``out``.

    Each file is replaced atomically. A section that raises costs its own target only, unless
    ``DRPO_TRACEBACK`` is set: then it raises.

    Args:
        plan: targets with their cells, in the report's order.
        options: of the run.
        records: by target and cell's name; a target that lacks one is reported as not run.
        out: folder of the report.
        failed: by ``target/name``, why a cell is absent, where that is known.
    """
    images: dict[str, bytes] = {}
    failures: dict[str, str] = {}
    parts = []
    for target, cells in plan:
        found = records.get(target.name, {})
        section, problem = None, _absent(cells, found, failed)
        if not problem:
            try:
                section = target.section(options, found)
                images |= _draw(section, images)
            except Exception as error:
                if os.environ.get("DRPO_TRACEBACK"):
                    raise
                section, problem = None, f"its section failed ({type(error).__name__}: {error})"
                failures[target.name] = problem
        seconds, processor = (
            round(sum(record.get(name, 0.0) for record in found.values()), 2)
            for name in ("seconds", "processor_seconds")
        )
        parts.append(Part(target.name, len(cells), seconds, section, problem, processor))
    report = Report(parts, _facts(options, records), options.quick)
    for name, image in images.items():
        write_png(out / "figures" / f"{name}.png", image)
    write_text(out / "report.html", to_html(report, images))
    write_text(out / "report.md", to_markdown(report))
    write_json(out / "claims.json", report.to_json())
    return Written(report, failures)


def _absent(cells: Sequence[Cell], found: Mapping[str, Record], failed: Mapping[str, str]) -> str:
    """Which cells a target lacks and why, or nothing."""
    absent = [cell for cell in cells if cell.name not in found]
    if not absent:
        return ""
    named = [
        f"{cell.name} ({failed[key]})" if (key := f"{cell.target}/{cell.name}") in failed
        else cell.name
        for cell in absent[:NAMED]
    ]  # fmt: skip
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"{len(absent)} of {len(cells)} cells are not there: {', '.join(named)}{more}"


def _draw(section: Section, taken: Mapping[str, bytes]) -> dict[str, bytes]:
    images: dict[str, bytes] = {}
    for figure in section.figures:
        if not _STEM.fullmatch(figure.name):
            raise ValueError(f"{figure.name!r} cannot name a figure's file")
        if figure.name in taken or figure.name in images:
            raise ValueError(f"two figures are called {figure.name!r}")
        images[figure.name] = png(figure)
    return images


def _facts(options: Options, records: Mapping[str, Mapping[str, Record]]) -> list[tuple[str, str]]:
    made = [record.get("made", {}) for found in records.values() for record in found.values()]
    return [
        ("seeds", f"{options.seeds}; fresh seeds: {options.fresh_seeds}"),
        ("device", options.device),
        ("KuaiRand log", "given" if options.logs else "not given"),
        ("files of random ratings", str(len(options.ratings)) if options.ratings else "not given"),
        *summarise(made),
    ]
