"""The files of a conversion under way, and the journal that says how much of them counts.

A conversion that is killed, or whose machine dies, goes on from its last entry: what was written
after it is cut off, and what it names is checked, byte by byte, before it is built upon.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_drpo.files import fingerprint, read_json

from ..store.columns import write_array
from ..store.folder import MARK, fresh, has_links, mark
from ..store.manifest import check_file_name

JOURNAL = "journal.json"
_BLOCK = 1 << 20


@dataclass
class Progress:
    """How far a conversion came."""

    batches: int = 0
    rows_read: int = 0
    partitioned: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    sorted: int = 0
    scored: int = 0
    users: int = 0
    rows: int = 0
    duplicates: int = 0
    trajectories: int = 0
    sessions_cut: int = 0
    slates: int = 0
    last_slate: int | None = None
    history_items: int = 0
    history_rows: int = 0
    cut_histories: int = 0
    tied_rows: int = 0
    parts: dict[str, int] = field(default_factory=dict)


class Workspace:
    """A work folder, whose files grow or are written once, and its journal.

    Args:
        folder: ``data-<fingerprint>.partial``; made, or found as a killed conversion left it.

    Attributes:
        state: the progress; a new one where there was none to trust.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, tuple[int, int]] = {}  # bytes and CRC-32 of each file
        self._obsolete: list[str] = []
        mark(folder)
        self.state = self._resumed() or self._fresh()

    def _fresh(self) -> Progress:
        fresh(self.folder)
        self._files = {}
        return Progress()

    def _resumed(self) -> Progress | None:
        """What the journal says, where the files bear it out."""
        try:
            journal = read_json(self.folder / JOURNAL)
            if journal.pop("sha256") != fingerprint(journal) or has_links(self.folder):
                return None
            state = Progress(**journal["state"])
            self._files = {name: tuple(entry) for name, entry in journal["files"].items()}
            for name in self._files:
                check_file_name(name)
            if not all(_cut(self.folder / name, *entry) for name, entry in self._files.items()):
                return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        self._remove_unknown()
        return state

    def _remove_unknown(self) -> None:
        known = {*self._files, JOURNAL, MARK}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in known:
                path.unlink()

    def append(self, name: str, array: np.ndarray) -> None:
        """Appends an array's bytes to a file."""
        size, check = self._files.get(name, (0, 0))
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            data = write_array(file, array)
        self._files[name] = size + data.nbytes, zlib.crc32(data, check)

    def put(self, name: str, *arrays: np.ndarray) -> None:
        """Writes a file of arrays, each with its type and shape, for :meth:`get`."""
        content = io.BytesIO()
        for array in arrays:
            np.save(content, array, allow_pickle=False)
        data = content.getbuffer()
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
        self._files[name] = data.nbytes, zlib.crc32(data)

    def get(self, name: str, count: int) -> list[np.ndarray]:
        """The arrays that :meth:`put` wrote."""
        with (self.folder / name).open("rb") as file:
            return [np.load(file, allow_pickle=False) for _ in range(count)]

    def read(self, name: str, dtype: np.dtype) -> np.ndarray:
        """A file of :meth:`append`, empty where nothing was ever appended."""
        if name not in self._files:
            return np.empty(0, dtype=dtype)
        return np.fromfile(self.folder / name, dtype=dtype)

    def has(self, name: str) -> bool:
        """Whether a file was written."""
        return name in self._files

    def drop(self, name: str) -> None:
        """Forgets a file; it is removed once the journal has done so too."""
        if self._files.pop(name, None) is not None:
            self._obsolete.append(name)

    def save(self) -> None:
        """Makes all that was written count."""
        journal: dict[str, Any] = {"state": asdict(self.state), "files": self._files}
        temporary = self.folder / f"{JOURNAL}.tmp"
        temporary.write_text(json.dumps({**journal, "sha256": fingerprint(journal)}))
        os.replace(temporary, self.folder / JOURNAL)
        for name in self._obsolete:
            (self.folder / name).unlink(missing_ok=True)
        self._obsolete = []

    def close(self) -> None:
        """Removes the journal and what only the way there needed: a killed run starts anew."""
        (self.folder / JOURNAL).unlink()
        shutil.rmtree(self.folder / "parts", ignore_errors=True)


def _cut(path: Path, size: int, check: int) -> bool:
    """Cuts a file back to ``size`` bytes; False where these are not what was written."""
    found, left = 0, size
    with path.open("rb+") as file:
        while left and (block := file.read(min(left, _BLOCK))):
            found, left = zlib.crc32(block, found), left - len(block)
        if left or found != check:
            return False
        file.truncate(size)
    return True
