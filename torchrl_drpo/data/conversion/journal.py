"""The files of a conversion under way, and the notes that say how much of them counts.

A conversion is made of units: a split that is read, a partition that is sorted, a partition that is
written. Each is a pure function of what came before it, so it may be done twice, by two processes,
or again by a later run. A unit counts once its note is there, which names what it wrote; that is
checked, byte by byte, before it is built upon.
"""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_drpo.files import read_sealed_json, write_sealed_json

from ..store.columns import write_array
from ..store.folder import MARK, fresh, has_links, mark
from ..store.manifest import check_file_name

#: Where notes lie, and what only the way to the result needs.
NOTES, WAY = "notes", "parts"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Note:
    """What a finished unit says.

    Args:
        told: counts, for the report and for the units after it.
        files: ``(name, first byte, bytes, CRC-32)`` of all that it wrote.
    """

    told: dict[str, Any]
    files: list[tuple[str, int, int, int]]

    def named(self, end: str) -> str | None:
        """The file whose name ends so; None where the unit had nothing to write there."""
        return next((name for name, *_ in self.files if name.endswith(end)), None)


@dataclass
class Attempt:
    """One go at a unit: what it writes, until its note says that it counts.

    Args:
        folder: the work folder.
        unit: the unit's name.
    """

    folder: Path
    unit: str
    _written: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A name of its own: what is left of other attempts, or still at it, is in nobody's way.
        self._own = f"{WAY}/{self.unit}-{uuid.uuid4().hex[:12]}"

    def append(self, name: str, array: np.ndarray) -> None:
        """Appends an array's bytes to a file of this attempt's own."""
        name = f"{self._own}/{name}"
        _, size, check = self._written.get(name, (0, 0, 0))
        if not self._written:
            (self.folder / self._own).mkdir()
        with (self.folder / name).open("ab") as file:
            data = write_array(file, array)
        self._written[name] = 0, size + data.nbytes, zlib.crc32(data, check)

    def place(self, name: str, first: int, array: np.ndarray) -> None:
        """Writes an array's bytes into a file of the result, from byte ``first`` on."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with os.fdopen(os.open(self.folder / name, flags, 0o666), "rb+") as file:
            file.seek(first)
            data = write_array(file, array)
        self._written[name] = first, data.nbytes, zlib.crc32(data)

    def finish(self, **told: Any) -> Note:
        """Makes what was written count."""
        note = Note(told, [(name, *where) for name, where in self._written.items()])
        path = self.folder / NOTES / f"{self.unit}.json"
        write_sealed_json(path, {"told": note.told, "files": note.files})
        return note


class Workspace:
    """The work folder as its driver sees it.

    Args:
        folder: ``data-<fingerprint>.partial``; made, or found as a killed conversion left it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mark(folder)
        if has_links(folder):  # writing could change more than this folder
            fresh(folder)
        for name in (NOTES, WAY):
            (folder / name).mkdir(exist_ok=True)
        self._remove_attempts()

    def note(self, unit: str, needed: Callable[[str], bool] = lambda name: True) -> Note | None:
        """What a finished unit says; None where it did not finish, or its files are not there.

        Args:
            unit: its name.
            needed: which of its files have to be there still, by their names.
        """
        try:
            found = read_sealed_json(self.folder / NOTES / f"{unit}.json")
            note = Note(dict(found["told"]), [(str(n), *map(int, at)) for n, *at in found["files"]])
            for name, *at in note.files:
                check_file_name(name)
                if needed(name) and not _holds(self.folder / name, *at):
                    return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return note

    def drop(self, *names: str) -> None:
        """Removes files that are needed no more."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def keep_only(self, notes: Iterable[Note]) -> None:
        """Removes whatever lies among the result's files and is in none of these notes."""
        ends: dict[str, int] = {}
        for note in notes:
            for name, first, size, _ in note.files:
                ends[name] = max(ends.get(name, 0), first + size)
        for folder in ("rows", "index"):
            for path in [path for path in (self.folder / folder).rglob("*") if path.is_file()]:
                end = ends.get(path.relative_to(self.folder).as_posix())
                if end is None:
                    path.unlink()
                elif path.stat().st_size > end:
                    os.truncate(path, end)

    def close(self) -> None:
        """Removes what only the way there needed: a run that is killed from here on starts anew."""
        for name in (NOTES, WAY):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _remove_attempts(self) -> None:
        """Removes what no note names; catalogues, too, which every run writes."""
        kept = {MARK, "rows", "index", NOTES, WAY}
        named = set()
        here = [path for path in self.folder.iterdir() if path.name not in kept]
        for path in (self.folder / NOTES).iterdir():
            note = self.note(path.stem, lambda name: False)
            if note is None:
                here.append(path)
            else:
                named |= {name.rpartition("/")[0] for name, *_ in note.files}
        left = [path for path in (self.folder / WAY).iterdir() if f"{WAY}/{path.name}" not in named]
        for path in (*here, *left):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _holds(path: Path, first: int, size: int, check: int) -> bool:
    """Whether a file's bytes from ``first`` on are what was written."""
    found = 0
    with path.open("rb") as file:
        file.seek(first)
        while size and (block := file.read(min(size, _BLOCK))):
            found, size = zlib.crc32(block, found), size - len(block)
    return size == 0 and found == check
