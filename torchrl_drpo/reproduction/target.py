"""What a reproduction target is made of: cells that are computed, a section that shows them.

A target's cells are independent, resumable computations with JSON results; its section is a pure
function of those results: tables, figures and verdicts are redrawn without computing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrl_drpo.report.images import Figure
from torchrl_drpo.reproduction.document.parts import (
    Claim,
    Section,
    Verdict,
    verdict,
    verdict_of,
)

__all__ = [
    "Cell",
    "Claim",
    "Figure",
    "Options",
    "Results",
    "Section",
    "Target",
    "Verdict",
    "verdict",
    "verdict_of",
]

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
        ratings: files with self-selected and random ratings; likewise.
    """

    seeds: int = 10
    fresh_seeds: int = 20
    quick: bool = False
    device: str = "cpu"
    logs: Path | None = None
    ratings: tuple[Path, ...] = ()

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
        settings: keyword arguments of ``run``, as JSON data; with target, name, ``run``'s own
            name and ``version`` they are the cell's identity.
        version: to be raised when ``run`` comes to compute something else.
    """

    target: str
    name: str
    run: Callable[..., Any]
    settings: Mapping[str, Any]
    version: int = 1


@dataclass(frozen=True)
class Target:
    """A table, a figure or a question, reproducible by its name.

    Attributes:
        name: as given on the command line.
        summary: a line for ``--help`` and the list of targets.
        cells: what to compute.
        section: what to show, from the results of all cells.
        needs: the data without which it has no cells, as an argument of its option; empty for a
            target that needs none.
        option: the option that gives them, by its name in :class:`Options`.
    """

    name: str
    summary: str
    cells: Callable[[Options], Sequence[Cell]]
    section: Callable[[Options, Results], Section]
    needs: str = ""
    option: str = "logs"
