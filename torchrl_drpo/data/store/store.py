"""The folder of a converted log: its layout, how it appears atomically, and how it is opened.

root/
manifest.json            which data folder is current, and what it holds; replaced atomically
data-<fingerprint>/
schema.json
rows/                  a memory-mapped TensorDict in TED layout (TensorDict.load_memmap)
index/*.bin            raw arrays: offsets of users, trajectories, slates; rows of each part
catalogues/            numbers of user, item and context ids
data-<fingerprint>.partial/   a conversion under way, with its journal
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor

from .catalogue import Catalogue
from .schema import LogSchema

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = "torchrl-drpo-log"
VERSION = 1


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion read, dropped and wrote.

    Args:
        rows_read: rows of the log's files.
        rows: rows kept.
        duplicates: exact duplicate rows left out (or found, where the schema keeps them).
        dropped: rows left out for a fault, by its name.
        users: users of the log.
        items: size of the catalogue.
        items_logged: items that a kept row showed.
        unknown_items: logged items that the item table lacks (they joined the catalogue).
        trajectories: trajectories; every row is one where the log is stored as logged.
        slates: slates, zero where the schema has none.
        parts: rows of each part (train, test, ...).
        first_test_day: first day of the test period, ``YYYY-MM-DD``.
        initial_history_users: users with a history from before the log.
        missing_tables: optional side tables that were not there.
    """

    rows_read: int = 0
    rows: int = 0
    duplicates: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    users: int = 0
    items: int = 0
    items_logged: int = 0
    unknown_items: int = 0
    trajectories: int = 0
    slates: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    first_test_day: str | None = None
    initial_history_users: int = 0
    missing_tables: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2)


def write_json(path: Path, data: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1))
    os.replace(temporary, path)


def append(path: Path, array: np.ndarray) -> None:
    """Appends an array's bytes to a file."""
    with path.open("ab") as file:
        np.ascontiguousarray(array).tofile(file)


def cut(path: Path, size: int) -> None:
    """Cuts a file back to ``size`` bytes (or makes it empty): what a killed run left is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size)


def map_array(path: Path, dtype: torch.dtype) -> Tensor:
    """A raw array of a file as a memory-mapped tensor, which pickles by its file name."""
    count = path.stat().st_size // torch.empty((), dtype=dtype).element_size()
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return MemoryMappedTensor.from_filename(path, dtype=dtype, shape=[count])


def write_rows_meta(
    rows: Path, columns: dict[str, tuple[str, tuple[int, ...]]], count: int
) -> None:
    """Gives raw column files the metadata that makes them a memory-mapped TensorDict.

    Args:
        rows: folder of the column files, ``next.reward`` lying at ``next/reward.memmap``.
        columns: dotted key -> (numpy dtype, shape of one row).
        count: number of rows.
    """
    outline = TensorDict({}, [count])
    for key, (dtype, shape) in columns.items():
        sample = torch.from_numpy(np.zeros((1, *shape), dtype=dtype))
        outline.set(tuple(key.split(".")), sample.expand(count, *shape))
    scratch = rows.parent / "meta.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    outline.memmap_like(scratch)  # sparse files: nothing but the metadata takes space
    for meta in scratch.rglob("meta.json"):
        target = rows / meta.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(meta, target)
    shutil.rmtree(scratch)


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Keeps a second conversion out of the folder; the lock dies with its process."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this platform: two conversions at once are the user's to avoid
        yield
        return
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another process is converting into {root}; wait for it or choose another root"
            ) from None
        yield


def publish(root: Path, work: Path, manifest: dict[str, Any]) -> None:
    """Makes a finished work folder the current one, in one atomic step, and drops all others."""
    final = root / work.name.removesuffix(".partial")
    if final.exists():
        shutil.rmtree(final)
    os.replace(work, final)
    write_json(root / "manifest.json", {**manifest, "data": final.name})
    for other in root.glob("data-*"):
        if other != final:
            shutil.rmtree(other)


class LogStore:
    """A converted log, opened for reading.

    Args:
        root: the folder that a conversion wrote.

    Raises:
        FileNotFoundError: if no finished conversion lies there.
        ValueError: on another format or version, or files shorter than the manifest says.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        path = self.root / "manifest.json"
        if not path.is_file():
            partial = list(self.root.glob("data-*.partial"))
            hint = "its conversion did not finish; run it again" if partial else "convert one first"
            raise FileNotFoundError(f"no converted log in {self.root}: {hint}")
        try:
            self.manifest = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}); convert the log again") from None
        found = self.manifest.get("format"), self.manifest.get("version")
        if found != (FORMAT, VERSION):
            raise ValueError(f"{path}: expected {FORMAT} version {VERSION}, got {found}")
        self.data = self.root / self.manifest["data"]
        self._check_sizes()
        self.schema = LogSchema.from_json((self.data / "schema.json").read_text())
        report = dict(self.manifest["report"])
        report["missing_tables"] = tuple(report["missing_tables"])
        self.report = ConversionReport(**report)
        self.rows = TensorDict.load_memmap(self.data / "rows")
        self._catalogues: dict[str, Catalogue | None] = {}

    def _check_sizes(self) -> None:
        for name, size in self.manifest["files"].items():
            path = self.data / name
            found = path.stat().st_size if path.is_file() else "no file"
            if found != size:
                raise ValueError(
                    f"{path}: expected {size} bytes, found {found}; convert the log again"
                )

    def index(self, name: str, dtype: torch.dtype = torch.int64) -> Tensor | None:
        """A raw index array, None where the log has none of that name."""
        path = self.data / "index" / f"{name}.bin"
        return map_array(path, dtype) if path.is_file() else None

    def catalogues(self) -> dict[str, Catalogue]:
        """All catalogues by name."""
        names = [path.stem for path in sorted((self.data / "catalogues").glob("*.json"))]
        return {name: self.catalogue(name) for name in names}

    def catalogue(self, name: str) -> Catalogue | None:
        """A catalogue (``"users"``, ``"items"``, ``"context.tab"``, ...), or None."""
        if name not in self._catalogues:
            path = self.data / "catalogues" / name
            there = Path(f"{path}.json").is_file()
            self._catalogues[name] = Catalogue.load(path) if there else None
        return self._catalogues[name]
