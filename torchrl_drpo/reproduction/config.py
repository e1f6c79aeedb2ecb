"""Options of ``drpo reproduce``; nothing heavy is imported to explain them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ReproduceConfig:
    """Reproduce tables, figures and claims, and write a report of what held and what did not.

    Everything is computed in cells that are kept in the output folder: a run that was killed goes
    on where it was when the same command is given again, and a cell whose file was deleted, or
    whose settings have changed, is computed again. Exit code 1 when a cell failed.

    Attributes:
        targets: names of targets, or `all`; --list explains them.
        list: list the targets and end.
        seeds: worlds of every comparison.
        fresh_seeds: worlds on which what was chosen elsewhere is confirmed.
        quick: a run that shows that everything works, in the output folder's own folder `quick`;
            its numbers mean nothing.
        device: where to train; auto is cuda where there is one, else cpu.
        logs: the KuaiRand log (log_standard_20220425_20220508.parquet), which target kuairand
            needs; without it `all` reports that target as not tested.
        ratings: files with self-selected and random ratings (columns user, item, rating from 1 to
            5, exposure: self_selected or random; Parquet or CSV) of Coat, Yahoo! R3 or the like,
            which target randomised needs.
        output: folder for the cells, the figures, report.html, report.md and claims.json.
        workers: processes; by default one a core, at most eight.
        report_only: compute nothing, draw the report from the cells that are there.
        json: print the claims as JSON instead of a table.
    """

    targets: tyro.conf.Positional[tuple[str, ...]] = ()
    list: bool = False
    seeds: int = 10
    fresh_seeds: int = 20
    quick: bool = False
    device: str = "auto"
    logs: Path | None = None
    ratings: tuple[Path, ...] = ()
    output: Path = Path("runs/reproduce")
    workers: int | None = None
    report_only: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.logs is not None and not self.logs.exists():
            raise ValueError(f"logs: there is no {self.logs}")
        for path in self.ratings:
            if not path.is_file():
                raise ValueError(f"ratings: there is no file {path}")
