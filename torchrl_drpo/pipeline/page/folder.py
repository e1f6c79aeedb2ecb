"""A run as it lies in its folder: ``results.json``, and the curves of ``runs/*.json``.

What lies on a disk may be anybody's. Names of objectives become names of files only where they are
ours or those of Python, and a curve is taken only from a run that gave the numbers of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrl_drpo.files import read_json, read_sealed_json
from torchrl_drpo.pipeline.objectives.named import NAMES
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.table import metrics_json, number_from
from torchrl_drpo.references import is_well_formed

#: A quantity's values by step.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """A run of ``drpo train``.

    Attributes:
        folder: where it lies, as it was given.
        results: what it found.
        curves: by quantity and objective, the curve of every seed.
        lost: why curves are not there, in sentences.
    """

    folder: Path
    results: TrainResults
    curves: Mapping[str, Mapping[str, list[Curve]]]
    lost: tuple[str, ...] = ()

    @property
    def objectives(self) -> tuple[str, ...]:
        """What was trained, in order."""
        return tuple(self.results.checkpoints)

    @property
    def seeds(self) -> int:
        """Runs of each objective."""
        return max(len(self.results.runs[name]) for name in self.objectives)

    def further(self, name: str) -> Any:
        """What :func:`~torchrl_drpo.pipeline.measured.measured` said of it.

        ``None`` in runs of earlier releases.
        """
        return self.results.further.get(name)


def read_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
        ValueError: for a folder that holds no finished run, or what is no such run.
    """
    path = folder / "results.json"
    try:
        data = read_json(path)
    except OSError as error:
        raise ValueError(
            f"{folder} holds no finished run of drpo train ({path.name}: {error.strerror}); name "
            "the folder that its --output named"
        ) from None
    try:
        for name in data["config"]["objectives"]:
            if name not in NAMES and not is_well_formed(name):
                raise ValueError(f"no objective is called {name!r}")
        results = TrainResults.from_json(data, folder)
        _check(results)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not what drpo train writes ({what}); name the folder that its --output "
            "named"
        ) from None
    curves: dict[str, dict[str, list[Curve]]] = {}
    lost = []
    first = int(results.config.get("first_seed", 0))
    for objective in results.checkpoints:
        for number, metrics in enumerate(results.runs[objective]):
            file = folder / "runs" / f"{file_name(objective)}-{first + number}.json"
            try:
                found = _curves(file, metrics)
            except (OSError, ValueError, TypeError, KeyError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                seed = first + number
                lost.append(f"The curves of {objective}, seed {seed}, are left out: {why}.")
                continue
            for name, curve in found.items():
                curves.setdefault(name, {}).setdefault(objective, []).append(curve)
    return Run(folder, results, curves, tuple(lost))


def _check(results: TrainResults) -> None:
    """Raises one of the errors above for what a page could not be made of."""
    if not results.checkpoints:
        raise ValueError("it names no objective")
    for name in results.checkpoints:
        if not results.runs[name] or name not in results.summary:
            raise ValueError(f"it has no numbers of {name!r}")
    results.table()
    _ = results.parts.sentences, results.parts.warnings


def _curves(path: Path, metrics: Mapping[str, float]) -> dict[str, Curve]:
    """The curves of a finished run.

    Raises:
        OSError: if it cannot be read.
        ValueError: for another run than the one whose metrics are given.
        KeyError, TypeError: for what is no such run.
    """
    run = read_sealed_json(path)
    if run["metrics"] != metrics_json(metrics):
        raise ValueError(f"{path} is of another run than results.json")
    found = {}
    for name, points in run.get("curve", {}).items():
        curve = [(int(step), number_from(value)) for step, value in points]
        if any(math.isfinite(value) for _, value in curve):
            found[str(name)] = curve
    return found
