"""``drpo reproduce``: computes what is missing, then draws the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from torchrl_drpo.pipeline.terminal import print_json, say, show
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.assembly import Planned, write_report
from torchrl_drpo.reproduction.cells import (
    CellError,
    default_workers,
    read_cells,
    run_cells,
)
from torchrl_drpo.reproduction.document.parts import VERDICTS
from torchrl_drpo.reproduction.document.report import Report, duration, state
from torchrl_drpo.reproduction.progress import cell_progress
from torchrl_drpo.reproduction.registry import ALL, load_targets
from torchrl_drpo.reproduction.target import Options


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
        logs: the KuaiRand log (log_standard_20220425_20220508.parquet), for target kuairand.
        out: folder for the cells, the figures, report.html, report.md and claims.json.
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
    out: Path = Path("runs/reproduce")
    workers: int | None = None
    report_only: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.logs is not None and not self.logs.exists():
            raise ValueError(f"logs: there is no {self.logs}")

    def options(self) -> Options:
        """What the targets see of it.

        Raises:
            ValueError: for too few seeds, or a device that torch does not have.
        """
        device = _device(self.device)
        # One log has one name in its cells' identity, from wherever the command is given.
        logs = None if self.logs is None else self.logs.resolve()
        return Options(self.seeds, self.fresh_seeds, self.quick, device, logs)


def run(config: ReproduceConfig) -> int:
    """``drpo reproduce``; returns the exit code."""
    if config.list:
        summaries = [[target.name, target.summary] for target in load_targets([ALL])]
        show(Table("Targets", ["target", "what it reproduces"], summaries))
        return 0
    options = config.options()
    plan = [Planned(target, target.cells(options)) for target in load_targets(config.targets)]
    cells = [cell for planned in plan for cell in planned.cells]
    # A quick run must never replace cells that took hours.
    out = config.out / "quick" if config.quick else config.out
    failures: dict[str, str] = {}
    if not config.report_only:
        try:
            with cell_progress(len(cells)) as progress:
                workers = config.workers or default_workers()
                run_cells(cells, out / "cells", workers=workers, progress=progress)
        except CellError as error:
            failures |= error.failures
    records, missing = read_cells(cells, out / "cells")
    if config.report_only and cells and len(missing) == len(cells):
        raise ValueError(
            f"nothing to report: {out / 'cells'} holds none of the {len(cells)} cells that these "
            "options ask for; without --report-only they are computed"
        )
    written = write_report(plan, options, records, out, failures)
    failures |= written.failures
    if config.json:
        print_json(written.report.to_json())
    else:
        show(_summary(written.report))
        say(f"report: {out / 'report.html'}   {out / 'report.md'}   {out / 'claims.json'}")
    _complain(failures, out)
    return 1 if failures else 0


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device: {str(error).splitlines()[0]}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA device")
    return name


def _summary(report: Report) -> Table:
    """A row a target: how many of its claims ended how."""
    from rich.markup import escape  # a reason may hold what rich would take for its markup

    rows = []
    for part in report.parts:
        claims = part.section.claims if part.section else ()
        counts = [sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS]
        row = [part.name, *(str(n) if n else "" for n in counts), duration(part.seconds)]
        rows.append([*row, escape(state(part))])
    title = "Quick run: these verdicts mean nothing" if report.quick else "Claims"
    return Table(title, ["target", *VERDICTS, "time of cells", "state"], rows)


def _complain(failures: Mapping[str, str], out: Path) -> None:
    if not failures:
        return
    listed = "\n".join(f"  {name}: {what}" for name, what in failures.items())
    print(  # noqa: T201
        f"drpo: {len(failures)} failed; the others are kept, and the same command goes on.\n"
        f"{listed}\nTracebacks of cells are in {out / 'cells'}/<target>/<cell>.error.txt.",
        file=sys.stderr,
    )
