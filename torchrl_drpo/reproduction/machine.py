"""What a number was made with: machine, versions, commit, date."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import torchrl_drpo

PACKAGES = ("torch", "torchrl", "tensordict", "torchrl-drpo")
UNKNOWN = "not recorded"
#: More values of one fact than these are counted, not listed.
LISTED = 4


def facts() -> dict[str, str]:
    """Machine, versions, commit and date, as text by name; ``GPU`` says which one was used."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "none used"
    return {**_lasting_facts(), "GPU": gpu, "date": f"{datetime.now(timezone.utc):%Y-%m-%d}"}


def summarise(made: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The facts of many cells, one row a fact; where they differ, with the number of cells.

    Example:
        >>> summarise([{"torch": "2.13", "date": "2026-11-24"}, {"torch": "2.13"}])
        [('torch', '2.13'), ('date', '2026-11-24 (1 cell), not recorded (1 cell)')]
    """
    made = list(made)
    names = dict.fromkeys(name for one in made for name in one)
    return [(name, _listed(one.get(name, UNKNOWN) for one in made)) for name in names]


def _listed(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return counts[0][0]
    shown = [f"{value} ({n} cell{'s' * (n > 1)})" for value, n in counts[:LISTED]]
    rest = counts[LISTED:]
    if rest:
        shown.append(f"{len(rest)} more ({sum(n for _, n in rest)} cells)")
    return ", ".join(shown)


@functools.cache
def _lasting_facts() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": platform.system(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(Path(torchrl_drpo.__file__).resolve().parents[1]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"


def _commit(root: Path) -> str:
    """The checkout's commit, and whether its code differs from it; none where it is installed."""
    if not (root / ".git").exists():
        return "no checkout"
    try:
        commit = _git(root, "rev-parse", "--short=10", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "torchrl_drpo", "kernels")
    except (OSError, subprocess.SubprocessError):  # no git, or not its owner's checkout
        return "unknown"
    return f"{commit} with local changes" if changed else commit


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
