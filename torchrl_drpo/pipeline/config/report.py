"""The settings of ``drpo report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

#: The name of a run's page in its folder.
PAGE = "report.html"


@dataclass(frozen=True)
class ReportConfig:
    """Draw the page of a finished run again, or compare several runs on one page.

    Nothing is trained: the page is made of what `drpo train` left in the folders.

    Attributes:
        runs: folders that `drpo train --output` named.
        output: the page; by default report.html in the run's folder, and of several runs here.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name the folder of a run, or of several: drpo report RUN [RUN ...]")
        resolved = [run.resolve() for run in self.runs]
        for place, run in enumerate(resolved):
            if run in resolved[:place]:
                raise ValueError(f"{self.runs[place]} is named twice; name each run once")

    @property
    def page(self) -> Path:
        """Where the page is written."""
        if self.output is not None:
            return self.output
        return self.runs[0] / PAGE if len(self.runs) == 1 else Path(PAGE)
