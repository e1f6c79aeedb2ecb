"""A report of claims and of what became of them: its parts, and its Markdown form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from torchrl_drpo.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: What Markdown reads as more than itself; a pipe, which only tables mind, is theirs to escape.
_MARKED = re.compile(r"[\\`*_\[\]<>&~$]")
Verdict = Literal["held", "held in part", "not held", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
BANNER = (
    "Quick run: everything was made as small as it can be, to show that it works. "
    "Its numbers and verdicts mean nothing."
)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper (or of a first look), and what became of it.

    Attributes:
        statement: what was claimed, in our own words.
        source: where: section, table or figure.
        verdict: what the numbers say.
        evidence: the numbers.

    Raises:
        ValueError: for another verdict than the four.
    """

    statement: str
    source: str
    verdict: Verdict
    evidence: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {VERDICTS}, got {self.verdict!r}")


@dataclass(frozen=True)
class Figure:
    """A figure that draws itself from saved numbers.

    Attributes:
        name: stem of its file.
        caption: what it shows, and how to read it.
        draw: draws on an empty matplotlib figure.
        size: width and height in inches.
    """

    name: str
    caption: str
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (10.0, 3.6)


@dataclass(frozen=True)
class Section:
    """A target's part of the report; its texts are Markdown.

    Attributes:
        title: its heading.
        text: what was done and what was found: paragraphs, bullet lists, bold, code, links.
        tables: in order.
        figures: in order.
        claims: verdicts with their evidence.
    """

    title: str
    text: str
    tables: Sequence[Table] = field(default_factory=tuple)
    figures: Sequence[Figure] = field(default_factory=tuple)
    claims: Sequence[Claim] = field(default_factory=tuple)


@dataclass(frozen=True)
class Part:
    """A target in the report.

    Attributes:
        name: of the target; its section is linked by it.
        cells: how many computations it has.
        seconds: of all its computations that are there.
        section: what to show, where it was run.
        problem: why there is no section, where there is none; plain text, as errors put it.
        processor_seconds: what the computations took of a processor, which other jobs on the
            machine do not lengthen.
    """

    name: str
    cells: int
    seconds: float
    section: Section | None = None
    problem: str = ""
    processor_seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """Everything that is shown, in order.

    Attributes:
        parts: the targets.
        facts: what was run on what: names and values.
        quick: whether the numbers mean nothing.
    """

    parts: Sequence[Part]
    facts: Sequence[tuple[str, str]]
    quick: bool = False

    @property
    def claims(self) -> list[tuple[str, Claim]]:
        """Every claim with its target's name."""
        return [(part.name, c) for part in self.parts if part.section for c in part.section.claims]

    def verdicts(self) -> str:
        """How many claims held, in words."""
        counts = Counter(claim.verdict for _, claim in self.claims)
        return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v]) or "no claims"

    def work(self) -> Table:
        """What was run, target by target."""
        rows = [[link(p), str(p.cells), *_times([p]), plain(state(p))] for p in self.parts]
        cells = sum(part.cells for part in self.parts)
        rows.append(["all", str(cells), *_times(self.parts), ""])
        return Table(
            "Targets",
            ["target", "cells", "time", "processor time", "state"],
            rows,
            emphasis=[len(rows) - 1],
            note="A cell is one computation that is kept and never made twice; the times are sums "
            "over the cells, whichever ran side by side. The first is the wall clock's and counts "
            "waiting for other jobs of the machine.",
        )

    def to_json(self) -> dict[str, Any]:
        """Claims with their verdicts, and what they rest on, as JSON data."""
        return {
            "quick": self.quick,
            "facts": dict(self.facts),
            "targets": {p.name: {"seconds": p.seconds, "state": state(p)} for p in self.parts},
            "claims": [
                {
                    "target": target,
                    "statement": claim.statement,
                    "source": claim.source,
                    "verdict": claim.verdict,
                    "evidence": claim.evidence,
                }
                for target, claim in self.claims
            ],
        }

    def to_markdown(self) -> str:
        """The report in GitHub's Markdown, with its figures in ``figures/``."""
        blocks = ["# Reproduction report"]
        if self.quick:
            blocks.append(f"> **{BANNER.upper()}**")
        blocks += ["## Claims", f"{self.verdicts().capitalize()}."]
        if self.claims:
            blocks.append(_markdown_table(_claims_table(self.claims)))
        facts = Table("", ["", "value"], [[plain(n), plain(value)] for n, value in self.facts])
        blocks += ["## What was run", _markdown_table(facts), *_titled(self.work())]
        for part in self.parts:
            blocks += _markdown_part(part)
        return "\n\n".join(blocks) + "\n"


def _times(parts: Sequence[Part]) -> tuple[str, str]:
    wall, processor = (sum(p.seconds for p in parts), sum(p.processor_seconds for p in parts))
    return duration(wall), duration(processor)


def link(part: Part) -> str:
    """Markdown for a link to the part's section."""
    return f"[{part.name}](#{part.name})"


def plain(text: str) -> str:
    r"""Markdown that shows a text as it is, on one line: an error's message, a machine's name.

    Example:
        >>> print(plain("KeyError: '__init__' of <Worlds>"))
        KeyError: '\_\_init\_\_' of \<Worlds\>
    """
    return _MARKED.sub(r"\\\g<0>", " ".join(text.split()))


def state(part: Part) -> str:
    """Whether a target was run, in words; plain text."""
    return "run" if part.section else f"not run: {part.problem}"


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> [duration(s) for s in (0.04, 59.5, 119.7, 7260)]
        ['0 s', '1 min 00 s', '2 min 00 s', '2 h 01 min']
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _claims_table(claims: Sequence[tuple[str, Claim]]) -> Table:
    rows = [
        [f"**{c.verdict}**", c.statement, c.source, c.evidence, f"[{target}](#{target})"]
        for target, c in claims
    ]
    return Table("", ["verdict", "claim", "source", "evidence", "section"], rows)


def _markdown_part(part: Part) -> list[str]:
    anchor = f'<a id="{part.name}"></a>'
    section = part.section
    if section is None:
        return [anchor, f"## {part.name}", f"Not run: {plain(part.problem)}."]
    blocks = [anchor, f"## {section.title}", section.text]
    blocks.append(f"`drpo reproduce {part.name}`: {part.cells} cells, {duration(part.seconds)}.")
    for table in section.tables:
        blocks += _titled(table)
    for figure in section.figures:
        blocks += [f"![{figure.name}](figures/{figure.name}.png)", figure.caption]
    return blocks


def _titled(table: Table) -> list[str]:
    blocks = [f"**{table.title}**"] if table.title else []
    blocks.append(_markdown_table(table))
    return [*blocks, table.note] if table.note else blocks


def _markdown_table(table: Table) -> str:
    words = any(len(cell) > 60 for row in table.rows for cell in row)
    header, *rows = ([_cell(text) for text in row] for row in (table.header, *table.rows))
    text = replace(table, header=header, rows=rows).to_markdown()
    # Numbers stand to the right, sentences do not.
    return text.replace("--:|", ":--|") if words else text


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
