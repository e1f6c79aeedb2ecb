"""The manifest of a converted log: which arrays lie in which files, and the files' digests.

It alone says how a folder is read. Its own digest stands in it, so a number that was changed by
hand or by a failing disk is found before anything is read by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from torchrl_drpo.files import fingerprint, read_json, write_json

FORMAT = "torchrl-drpo-log"
VERSION = 4
MANIFEST = "manifest.json"
#: Sizes of what a column may hold, in bytes, by torch's name.
SIZES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
Key = tuple[str, ...]
#: What every log's rows hold: dtype and dimensions.
_COLUMNS = {
    ("action",): ("int64", 1), ("next", "reward"): ("float32", 2), ("next", "done"): ("bool", 2),
    ("next", "terminated"): ("bool", 2),
}  # fmt: skip
#: Arrays beside the rows; those not named here are offsets and rows, int64 in one dimension.
_ARRAYS = {
    "item_codes": ("int64", 2), "item_embeddings": ("float32", 2), "initial_values": ("int32", 1),
    "history_items": ("int32", 1),
}  # fmt: skip
_DATA = re.compile(r"data-[0-9a-f]{16}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_AGAIN = "convert the log again (overwrite=True replaces what is there once the new one is whole)"


class StoreError(ValueError):
    """A converted log that cannot be read as its manifest says; names the file and what to do."""

    def __init__(self, where: Path, problem: str) -> None:
        self.where, self.problem = where, problem
        super().__init__(f"{where}: {problem}; {_AGAIN}")


@dataclass(frozen=True)
class Array:
    """A raw array in a file: C order, this machine's bytes.

    Args:
        file: its path within the data folder.
        dtype: a key of :data:`SIZES`.
        shape: of the whole array.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in SIZES or any(type(n) is not int or n < 0 for n in self.shape):
            raise ValueError(f"{self.file}: no array of {self.dtype!r} and shape {self.shape}")

    @property
    def nbytes(self) -> int:
        """Bytes of its file."""
        return SIZES[self.dtype] * prod(self.shape)


@dataclass(frozen=True)
class File:
    """A file as it was written.

    Args:
        bytes: its size.
        sha256: digest of its content.
        sample: :func:`~torchrl_drpo.files.sampled_digest`, which opening checks.
    """

    bytes: int
    sha256: str
    sample: str


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds.

    Args:
        data: the folder's name.
        rows: number of rows.
        columns: the rows' columns by key.
        arrays: other arrays by name: offsets, parts, item tables.
        parts: array of each part of the log (train, test, ...).
        catalogues: path of each catalogue, without its suffixes.
        files: every file with its digests.
        report: the conversion's report; None for TED rows.
        ticks_per_second: of the stored times.
        inputs: what was converted, as :class:`torchrl_drpo.data.sources.Input` says it.
    """

    data: str
    rows: int
    columns: Mapping[Key, Array]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    catalogues: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    ticks_per_second: int = 1
    inputs: tuple[Mapping[str, Any], ...] = ()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes a manifest in one step."""
    data: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "data": manifest.data, "rows": manifest.rows,
        "columns": [{"key": key, **asdict(a)} for key, a in manifest.columns.items()],
        "arrays": {name: asdict(a) for name, a in manifest.arrays.items()},
        "parts": dict(manifest.parts), "catalogues": dict(manifest.catalogues),
        "report": manifest.report, "ticks_per_second": manifest.ticks_per_second,
        "inputs": list(manifest.inputs),
        "files": {name: asdict(file) for name, file in manifest.files.items()},
    }  # fmt: skip
    write_json(path, {**data, "sha256": fingerprint(data)})


def read_manifest(root: Path) -> Manifest:
    """Reads and checks the manifest of a folder.

    Raises:
        FileNotFoundError: if no finished conversion lies there.
        StoreError: if the manifest is damaged, or of another format or version.
    """
    path = root / MANIFEST
    if not path.is_file():
        under_way = any(root.glob("data-*.partial"))
        hint = "its conversion did not finish; run it again" if under_way else "convert one first"
        raise FileNotFoundError(f"no converted log in {root}: {hint}")
    try:
        data = read_json(path)
    except ValueError as error:
        raise StoreError(path, f"damaged ({error})") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StoreError(path, f"not the manifest of a converted log, format {FORMAT!r}")
    if data.get("version") != VERSION:
        raise StoreError(
            path, f"expected version {VERSION}, got {data.get('version')!r}, written by another "
            "version of torchrl-drpo"
        )  # fmt: skip
    if data.pop("sha256", None) != fingerprint(data):
        raise StoreError(path, "damaged: its digest is another")
    try:
        return _from_data(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(path, f"damaged ({type(error).__name__}: {error})") from None


def check_file_name(name: str) -> None:
    """Raises ``ValueError`` for a name that could lead out of its folder."""
    if not _FILE.fullmatch(name):
        raise ValueError(f"a file is called {name!r}")


def _from_data(data: dict[str, Any]) -> Manifest:
    def array(entry: dict[str, Any]) -> Array:
        return Array(entry["file"], entry["dtype"], tuple(entry["shape"]))

    manifest = Manifest(
        data=data["data"],
        rows=data["rows"],
        columns={tuple(entry["key"]): array(entry) for entry in data["columns"]},
        arrays={name: array(entry) for name, entry in data["arrays"].items()},
        parts=dict(data["parts"]),
        catalogues=dict(data["catalogues"]),
        files={name: File(**entry) for name, entry in data["files"].items()},
        report=data["report"],
        ticks_per_second=data["ticks_per_second"],
        inputs=tuple(data["inputs"]),
    )
    if not _DATA.fullmatch(manifest.data):
        raise ValueError(f"the data folder is called {manifest.data!r}")
    for name in [*manifest.files, *manifest.catalogues.values()]:
        check_file_name(name)
    keys = set(manifest.columns)
    for key, column in manifest.columns.items():
        if not key or not all(isinstance(part, str) for part in key):
            raise ValueError(f"a column has the key {key}")
        if any(key[:length] in keys for length in range(1, len(key))):
            raise ValueError(f"the key {key} lies within another column")
        if column.shape[:1] != (manifest.rows,):
            raise ValueError(f"column {key} has shape {column.shape} of {manifest.rows} rows")
    for stored in [*manifest.columns.values(), *manifest.arrays.values()]:
        found = manifest.files[stored.file].bytes
        if found != stored.nbytes:
            raise ValueError(f"{stored.file}: {found} bytes for {stored.dtype} {stored.shape}")
    if not set(manifest.parts.values()) <= set(manifest.arrays):
        raise ValueError("a part has no array")
    columns = {key: manifest.columns[key] for key in _COLUMNS if manifest.report is not None}
    for name, stored in {**columns, **manifest.arrays}.items():
        expected = _COLUMNS.get(name) or _ARRAYS.get(name, ("int64", 1))
        if (stored.dtype, len(stored.shape)) != expected:
            raise ValueError(f"{name} is {stored.dtype} {stored.shape}, expected {expected}")
    return manifest
