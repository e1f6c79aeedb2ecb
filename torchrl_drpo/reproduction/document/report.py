"""The whole report: the targets in order, what they claim, and what was run on what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.document.parts import VERDICTS, Claim, Section

#: What Markdown reads as more than itself; a pipe, which only tables mind, is theirs to escape.
_MARKED = re.compile(r"[\\`*_\[\]<>&~$]")
BANNER = (
    "Quick run: everything was made as small as it can be, to show that it works. "
    "Its numbers and verdicts mean nothing."
)


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
