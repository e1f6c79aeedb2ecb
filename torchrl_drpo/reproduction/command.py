"""``drpo reproduce``: computes what is missing, then draws the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from torchrl_drpo.pipeline.terminal import print_json, say, show
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.assembly import Planned, write_report
from torchrl_drpo.reproduction.cells import CellError, read_cells, run_cells
from torchrl_drpo.reproduction.config import ReproduceConfig
from torchrl_drpo.reproduction.document.parts import VERDICTS
from torchrl_drpo.reproduction.document.report import Report, duration, state
from torchrl_drpo.reproduction.progress import cell_progress
from torchrl_drpo.reproduction.registry import ALL, load_targets
from torchrl_drpo.reproduction.target import Options, Target
from torchrl_drpo.reproduction.workers import default_workers


def run(config: ReproduceConfig) -> int:
    """``drpo reproduce``; returns the exit code."""
    if config.list:
        summaries = [[target.name, target.summary] for target in load_targets([ALL])]
        show(Table("Targets", ["target", "what it reproduces"], summaries))
        return 0
    targets, options = load_targets(config.targets), options_of(config)
    _check_data(targets, config)
    plan = [Planned(target, target.cells(options)) for target in targets]
    cells = [cell for planned in plan for cell in planned.cells]
    # A quick run must never replace cells that took hours.
    out = config.output / "quick" if config.quick else config.output
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


def options_of(config: ReproduceConfig) -> Options:
    """What the targets see of a configuration.

    Raises:
        ValueError: for too few seeds, or a device that torch does not have.
    """
    device = _device(config.device)
    # One log has one name in its cells' identity, from wherever the command is given.
    logs = None if config.logs is None else config.logs.resolve()
    ratings = tuple(path.resolve() for path in config.ratings)
    return Options(config.seeds, config.fresh_seeds, config.quick, device, logs, ratings)


def _check_data(targets: Sequence[Target], config: ReproduceConfig) -> None:
    """Refuses a target that was asked for by name and lacks its data; of others, says so."""
    for target in targets:
        if not target.needs or getattr(config, target.option):
            continue
        needs = f"--{target.option} {target.needs}"
        if target.name in config.targets:
            raise ValueError(
                f"target {target.name} needs {needs}; `drpo reproduce {ALL}` goes on without it, "
                "and reports the target as not tested"
            )
        print(  # noqa: T201
            f"drpo: target {target.name} is not tested, for it needs {needs}", file=sys.stderr
        )


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
    rows = []
    for part in report.parts:
        claims = part.section.claims if part.section else ()
        counts = [sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS]
        row = [part.name, *(str(n) if n else "" for n in counts), duration(part.seconds)]
        rows.append([*row, state(part)])
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
