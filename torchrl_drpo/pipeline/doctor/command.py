"""``drpo doctor``: looks, checks, and says what is missing and how to get it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError
from typing import Any

import torch

from torchrl_drpo import __version__
from torchrl_drpo.pipeline.config.doctor import DoctorConfig
from torchrl_drpo.pipeline.doctor.checks import TOLERANCE, Check, run_checks
from torchrl_drpo.pipeline.doctor.packages import EXTRAS, PACKAGE, Found, installed_packages
from torchrl_drpo.pipeline.terminal import print_json, say, show
from torchrl_drpo.report.tables import Table


def command(config: DoctorConfig) -> int:
    """Prints what it found; returns 1 where something is broken, else 0."""
    try:
        packages = installed_packages()
    except PackageNotFoundError:
        packages = []
    checks = run_checks(_devices())
    broken = [each for each in packages if each.extra is None and not each.fits]
    failed = [each for each in checks if not each.passed]
    if config.json:
        print_json(_json(packages, checks))
        return int(bool(broken or failed))
    for line in machine():
        say(line)
    if packages:
        show(_packages_table(packages))
    else:
        say(f"{PACKAGE} runs from a folder and is not installed: what it asks for is not known")
    show(_checks_table(checks))
    for line in advice(packages, checks):
        say(line)
    return int(bool(broken or failed))


def machine() -> list[str]:
    """Where this runs, in lines."""
    torch_version = f"torch {torch.__version__}"
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use"
    lines = [
        f"torchrl-drpo {__version__}, Python {platform.python_version()}, {torch_version}, "
        f"{platform.system()} {platform.machine()}, {threads}"
    ]
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "none found"
        return [*lines, f"GPU: none ({why}); ops run in plain PyTorch"]
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        memory = f"{found.total_memory / 2**30:.0f} GiB"
        capability = f"compute capability {found.major}.{found.minor}"
        lines.append(f"GPU {number}: {found.name}, {memory}, {capability}")
    return lines


def advice(packages: list[Found], checks: list[Check]) -> list[str]:
    """What is missing or wrong, and what to do, in lines; one line where nothing is."""
    lines = []
    for each in packages:
        if each.extra is None and not each.fits:
            have = f"{each.installed} is installed" if each.installed else "it is not installed"
            lines.append(
                f"{each.name}{each.wanted} is needed and {have}: "
                f"pip install '{each.name}{each.wanted}'"
            )
    for extra in EXTRAS:
        own = [each for each in packages if each.extra == extra]
        missing = [each.name for each in own if not each.fits]
        if missing:
            lines.append(
                f"for {EXTRAS[extra]}: pip install '{PACKAGE}[{extra}]' ({', '.join(missing)})"
            )
    for check in checks:
        if not check.passed:
            what = check.failure or f"is {check.error:.1e} away from float64"
            lines.append(
                f"{check.name} on {check.device} {what}: please report it with what stands above"
            )
    return lines or ["everything is there, and computes what it should"]


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _packages_table(packages: list[Found]) -> Table:
    rows = []
    for each in packages:
        state = "ok" if each.fits else "missing" if each.installed is None else "another version"
        rows.append(
            [each.name, each.wanted or "any", each.installed or "", each.extra or "", state]
        )
    return Table("Packages", ["package", "wanted", "installed", "extra", "state"], rows)


def _checks_table(checks: list[Check]) -> Table:
    rows = [
        [
            each.name,
            each.device,
            each.backend,
            "" if each.failure else f"{each.error:.1e}",
            f"{each.seconds:.2f} s",
            "ok" if each.passed else each.failure or "WRONG",
        ]
        for each in checks
    ]
    return Table(
        "Self-check: values and gradients of every op against float64",
        ["op", "device", "runs in", "error", "time", "state"],
        rows,
        note=f"Errors of float32 are below {TOLERANCE:g}; the first call on a GPU compiles.",
    )


def _json(packages: list[Found], checks: list[Check]) -> dict[str, Any]:
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": machine(),
        "packages": [{**vars(each), "fits": each.fits} for each in packages],
        "checks": [
            {
                **vars(each),
                "error": None if each.failure else each.error,
                "passed": each.passed,
            }
            for each in checks
        ],
        "advice": advice(packages, checks),
    }
