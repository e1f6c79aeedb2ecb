"""Records of cells: a JSON file each, read only where it is this cell's, and whole.

A record belongs to a cell by target, name, the function's own name, settings and version; where
the function's module stands is no part of it, so that code may move and results stay.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrl_drpo.files import fingerprint, read_json
from torchrl_drpo.reproduction.machine import facts
from torchrl_drpo.reproduction.target import Cell

#: What is kept of a cell: ``fingerprint``, ``seconds``, ``processor_seconds``, ``settings``,
#: ``result``, ``made``, ``digest``.
Record = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Records of 0.1 named the module of a cell's function: by target, its last part.
_FORMER_MODULES = {
    "table1": "runs",
    "divergence": "phantom",
    "noise": "runs",
    "ablation": "runs",
    "sensitivity": "runs",
    "online": "served",
    "geometry": "geometry",
    "cu1": "cu1_training",
    "du1": "du1_training",
    "kuairand": "kuairand_runs",
    "beyond": "runs",
}


def compute_record(cell: Cell) -> Record:
    """Runs a cell.

    Raises:
        ValueError: if its result is no strict JSON data (a NaN, say).
    """
    started, used = time.perf_counter(), time.process_time()
    result = cell.run(**cell.settings)
    record = {
        "fingerprint": identity(cell),
        "seconds": round(time.perf_counter() - started, 2),
        # What it would take on a machine that does nothing else; the wall clock counts waiting.
        "processor_seconds": round(time.process_time() - used, 2),
        "settings": cell.settings,
        "result": result,
        "made": facts(),
    }
    # A section sees the same data (lists, keys of text) whether a cell was computed or read.
    known = _plain(record)
    return {**known, "digest": fingerprint(known)}


def read_record(cell: Cell, folder: Path) -> Record | None:
    """The record of a cell, if ``folder`` holds it.

    ``None`` for a file that is not there, not readable, of another cell or of other settings, or
    whose content is not what its digest says. Records of 0.1 have no digest and are taken.
    """
    try:
        record = read_json(record_path(cell, folder))
    except (OSError, ValueError):  # never ran, or not by this program
        return None
    return record if _is_of(record, cell) else None


def record_path(cell: Cell, folder: Path) -> Path:
    """The file of a cell's record."""
    return folder / cell.target / f"{cell.name}.json"


def identity(cell: Cell) -> str:
    """What tells a cell from all others, as 64 hexadecimal digits."""
    return fingerprint(
        {
            "target": cell.target,
            "name": cell.name,
            "run": cell.run.__qualname__,
            "settings": cell.settings,
            "version": cell.version,
        }
    )


def former_identity(cell: Cell) -> str | None:
    """The same as 0.1 had it; ``None`` for a target that 0.1 did not have."""
    if cell.target not in _FORMER_MODULES:
        return None
    module = f"torchrl_drpo.experiments.reproduce.{_FORMER_MODULES[cell.target]}"
    run = f"{module}.{cell.run.__qualname__}"
    return fingerprint({"run": run, "settings": cell.settings, "version": cell.version})


def check_names(cells: Sequence[Cell]) -> None:
    """Raises ``ValueError`` for a name that cannot name a file, or that two cells share."""
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        for name in (cell.target, cell.name):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    "names of cells and targets start with a letter or digit and hold letters, "
                    f"digits, '.', '_' and '-' only, got {name!r}"
                )
        if (cell.target, cell.name) in seen:
            raise ValueError(f"two cells of target {cell.target!r} are called {cell.name!r}")
        seen.add((cell.target, cell.name))


def _is_of(record: Any, cell: Cell) -> bool:
    if not (isinstance(record, dict) and _well_formed(record)):
        return False
    if record["settings"] != _plain(cell.settings):
        return False
    if record["fingerprint"] == identity(cell):
        known = {name: value for name, value in record.items() if name != "digest"}
        return record.get("digest") == fingerprint(known)
    return record["fingerprint"] == former_identity(cell)


def _well_formed(record: Record) -> bool:
    """Whether it holds what the report counts on."""
    made = record.get("made", {})
    return (
        {"fingerprint", "seconds", "settings", "result"} <= record.keys()
        and isinstance(record["fingerprint"], str)
        and all(
            isinstance(record.get(name, 0.0), (int, float))
            for name in ("seconds", "processor_seconds")
        )
        and isinstance(made, dict)
        and all(isinstance(value, str) for value in made.values())
    )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return plain
