"""What a reproduction target is made of: cells that are computed, a section that shows them.

A target's cells are independent, resumable computations with JSON results; its section is a pure
function of those results: tables, figures and verdicts are redrawn without computing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchrl_drpo.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Verdict = Literal["held", "held in part", "not held", "not tested"]
#: Results of a target's cells by the cells' names, as JSON data.
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """What the user may choose, for every target.

    Attributes:
        seeds: worlds (catalogue, users, log, initial policy) of every comparison.
        fresh_seeds: worlds on which the variants that were chosen elsewhere are confirmed.
        quick: a small run that shows that everything works; its numbers mean nothing.
        device: where to train.
        logs: the KuaiRand log; without it that target is reported as not tested.
    """

    seeds: int = 10
    fresh_seeds: int = 20
    quick: bool = False
    device: str = "cpu"
    logs: Path | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "fresh_seeds"):
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name} must be at least 2, for an interval, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Cell:
    """One computation.

    Attributes:
        target: name of the target that it belongs to.
        name: its name there; letters, digits, ``.``, ``_`` and ``-``: it names a file.
        run: a function at module level (it travels to another process) that returns JSON data.
        settings: keyword arguments of ``run``, as JSON data; with ``run``'s name and ``version``
            they are the cell's identity.
        version: to be raised when ``run`` comes to compute something else.
    """

    target: str
    name: str
    run: Callable[..., Any]
    settings: Mapping[str, Any]
    version: int = 1


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper (or of a first look), and what became of it.

    Attributes:
        statement: what was claimed, in our own words.
        source: where: section, table or figure.
        verdict: what the numbers say.
        evidence: the numbers.
    """

    statement: str
    source: str
    verdict: Verdict
    evidence: str


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
    """A target's part of the report.

    Attributes:
        title: its heading.
        text: what was done and what was found, in Markdown.
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
class Target:
    """A table, a figure or a question, reproducible by its name.

    Attributes:
        name: as given on the command line.
        summary: a line for ``--help`` and the list of targets.
        cells: what to compute.
        section: what to show, from the results of all cells.
    """

    name: str
    summary: str
    cells: Callable[[Options], Sequence[Cell]]
    section: Callable[[Options, Results], Section]
