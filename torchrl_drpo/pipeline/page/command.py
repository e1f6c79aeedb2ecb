"""``drpo report``: the page of a run from its folder, and one page that compares several."""

from __future__ import annotations

from pathlib import Path

from torchrl_drpo.files import write_text
from torchrl_drpo.pipeline.config.report import PAGE, ReportConfig
from torchrl_drpo.pipeline.page.compare import comparison_page, rows_differ
from torchrl_drpo.pipeline.page.folder import read_run
from torchrl_drpo.pipeline.page.sections import GENERATOR, run_page
from torchrl_drpo.pipeline.terminal import note, say


def command(config: ReportConfig) -> None:
    """``drpo report``."""
    runs = [read_run(folder) for folder in config.runs]
    if config.page.is_dir():
        raise ValueError(f"--output must be a file, and {config.page} is a folder")
    if config.output is None and _is_foreign(config.page):
        raise ValueError(
            f"{config.page} is there and is no page of a run: it stays; name another file by "
            "--output"
        )
    for run in runs:
        for line in run.lost:
            note(line)
    warning = rows_differ(runs) if len(runs) > 1 else ""
    if warning:
        note(warning)
    try:
        page = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # numbers that do not fit
        named = " or ".join(str(run.folder / "results.json") for run in runs)
        raise ValueError(
            f"{named} is not what drpo train writes ({type(error).__name__}: {error}); was it "
            "edited? Give drpo train again, and finished runs are read"
        ) from error
    write_text(config.page, page)
    say(f"page: {config.page}")


def page_beside(folder: Path) -> bool:
    """Writes a finished run's page into its folder, and returns whether it could be drawn.

    A page is drawn from numbers that are written already, and what hinders it (no matplotlib, a
    full disk, a fault of ours) is no reason to end the command that found them. An older page would
    show other numbers, and does not stay.
    """
    path = folder / PAGE
    if _is_foreign(path):
        note(f"{path} was not drawn: what lies there is no page of a run, and stays")
        return False
    try:
        write_text(path, run_page(read_run(folder)))
    except Exception as error:
        note(f"{path} was not drawn ({type(error).__name__}: {error}); nothing else is lost")
        if _is_page(path):
            path.unlink()
        return False
    return True


def _is_foreign(path: Path) -> bool:
    """Whether a file is there, and somebody else's."""
    return path.exists() and not _is_page(path)


def _is_page(path: Path) -> bool:
    """Whether a file is a page that this package wrote."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(2_000)
    except OSError:
        return False
