"""Whether the files of a converted log are what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torchrl_drpo.files import digest, sampled_digest
from torchrl_drpo.spelling import counted

from .manifest import Manifest, StoreError, read_manifest


@dataclass(frozen=True)
class StoreFault:
    """A file that is not what was written.

    Args:
        path: the file.
        problem: what was expected and found.
    """

    path: Path
    problem: str


@dataclass(frozen=True)
class StoreReport:
    """What became of a converted log's files.

    Args:
        root: its folder.
        files: how many files were checked.
        bytes: what they hold together.
        rows: rows of the log.
        faults: files that are not what was written, and problems of the manifest.
    """

    root: str
    files: int = 0
    bytes: int = 0
    rows: int = 0
    faults: tuple[StoreFault, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every byte is what was written."""
        return not self.faults

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2, default=str)

    def __str__(self) -> str:
        rows, files = counted(self.rows, "row"), counted(self.files, "file")
        lines = [f"{self.root}: {rows}, {files}, {self.bytes:,} bytes"]
        lines += [f"error: {fault.path}: {fault.problem}" for fault in self.faults]
        lines += ["convert the log again"] if self.faults else ["every byte is what was written"]
        return "\n".join(lines)


def verify_store(root: Path | str) -> StoreReport:
    """Reads a converted log whole and compares every file with its digest.

    Raises:
        FileNotFoundError: if no finished conversion lies there.

    Examples:
        >>> import pandas as pd, tempfile
        >>> from torchrl_drpo.data import LogSchema, convert_log
        >>> log = pd.DataFrame(dict(u=[7, 7, 9], i=[3, 1, 3], t=[1, 2, 3], click=[1, 0, 1]))
        >>> schema = LogSchema(user="u", item="i", time="t", quality="click")
        >>> with tempfile.TemporaryDirectory() as root:
        ...     _ = convert_log(log, root, schema)
        ...     verify_store(root).ok
        True
    """
    root = Path(root)
    try:
        manifest = read_manifest(root)
    except StoreError as error:
        return StoreReport(str(root), faults=(StoreFault(error.where, error.problem),))
    return StoreReport(
        str(root),
        files=len(manifest.files),
        bytes=sum(file.bytes for file in manifest.files.values()),
        rows=manifest.rows,
        faults=tuple(faults_of(root / manifest.data, manifest, whole=True)),
    )


def faults_of(data: Path, manifest: Manifest, whole: bool) -> Iterator[StoreFault]:
    """The files that are not what the manifest says, by size and content.

    Args:
        data: the data folder.
        manifest: what lies there.
        whole: whether every byte is read; else large files are sampled.
    """
    for name, file in manifest.files.items():
        path = data / name
        try:
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes:
                found = "no file" if size is None else size
                yield StoreFault(path, f"expected {file.bytes} bytes, found {found}")
            elif (whole and digest(path) != file.sha256) or (
                not whole and sampled_digest(path) != file.sample
            ):
                yield StoreFault(path, "damaged: its content has another digest")
        except OSError as error:
            yield StoreFault(path, f"cannot be read ({error.strerror})")
