"""What a target shows: a section with tables, figures, and claims with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.tables import Table

Verdict = Literal["held", "held in part", "not held", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


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


def verdict(parts: Sequence[bool]) -> Verdict:
    """Of a claim with several parts.

    Example:
        >>> verdict([True, True]), verdict([True, False]), verdict([False]), verdict([])
        ('held', 'held in part', 'not held', 'not tested')
    """
    return verdict_of(sum(parts), len(parts))


def verdict_of(held: int, of: int) -> Verdict:
    """The same where ``held`` parts of so many did."""
    if of == 0:
        return "not tested"
    return "held" if held == of else "held in part" if held else "not held"
