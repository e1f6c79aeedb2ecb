"""`LogStore`: a converted log, opened for reading."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from pathlib import Path

from tensordict import TensorDict
from torch import Tensor

from ..catalogue import Catalogue
from ..schema import LogSchema
from .columns import map_array
from .manifest import Array, Key, Manifest, StoreError, read_manifest
from .report import ConversionReport
from .verify import faults_of

_ATTEMPTS = 3


class LogStore:
    """A converted log, or stored TED rows, opened for reading.

    Nothing is locked or written: many processes may read one folder, on a read-only mount too.
    Sizes of all files are checked, the content of small ones, and samples of large ones.

    Args:
        root: the folder that a conversion wrote.
        verify: check every byte.

    Raises:
        FileNotFoundError: if no finished conversion lies there.
        StoreError: on another format or version, or where a file is not what was written.
    """

    def __init__(self, root: Path | str, *, verify: bool = False) -> None:
        self.root = Path(root).absolute()
        self.manifest = _checked(self.root, verify)
        self.data = self.root / self.manifest.data
        try:
            self.schema, self.report = self._described()
        except (TypeError, ValueError, OSError) as error:
            raise StoreError(self.data / "schema.json", f"damaged ({error})") from None
        self._catalogues: dict[str, Catalogue] = {}

    def _described(self) -> tuple[LogSchema | None, ConversionReport | None]:
        if self.manifest.report is None:
            return None, None
        schema = LogSchema.from_json((self.data / "schema.json").read_text(encoding="utf-8"))
        report = dict(self.manifest.report)
        unknown = sorted(set(report) - {entry.name for entry in fields(ConversionReport)})
        if unknown:
            raise ValueError(f"the report has the entries {unknown}")
        report["missing_tables"] = tuple(report.get("missing_tables", ()))
        return schema, ConversionReport(**report)

    @cached_property
    def rows(self) -> TensorDict:
        """All columns, mapped; batch size ``[N]``."""
        columns = {key: self.column(key) for key in self.manifest.columns}
        named = {key if len(key) > 1 else key[0]: column for key, column in columns.items()}
        return TensorDict({}, [self.manifest.rows]).update(named).lock_()

    def column(self, key: Key) -> Tensor:
        """One column over pages of its own: writing into it changes nothing else.

        Raises:
            KeyError: names the columns that there are.
        """
        if key not in self.manifest.columns:
            known = sorted(".".join(there) for there in self.manifest.columns)
            raise KeyError(f"no column {'.'.join(key)!r} in this log; it has {', '.join(known)}")
        return self._map(self.manifest.columns[key])

    def index(self, name: str) -> Tensor | None:
        """An array of that name over pages of its own, None where the log has none."""
        array = self.manifest.arrays.get(name)
        return None if array is None else self._map(array)

    def _map(self, array: Array) -> Tensor:
        try:
            return map_array(self.data, array)
        except RuntimeError:  # torch's own text names neither the file nor what to do
            raise StoreError(self.data / array.file, "it is there no more") from None

    def part(self, name: str) -> Tensor | None:
        """The rows of a part, ascending int64; None where the log has no such part."""
        return self.index(self.manifest.parts[name]) if name in self.manifest.parts else None

    def catalogues(self) -> dict[str, Catalogue]:
        """All catalogues by name."""
        return {name: self.catalogue(name) for name in self.manifest.catalogues}

    def catalogue(self, name: str) -> Catalogue | None:
        """A catalogue (``"users"``, ``"items"``, ``"context.tab"``, ...), or None."""
        if name not in self.manifest.catalogues:
            return None
        if name not in self._catalogues:
            path = self.data / self.manifest.catalogues[name]
            try:
                self._catalogues[name] = Catalogue.load(path)
            except (OSError, ValueError) as error:
                raise StoreError(path, f"damaged ({error})") from None
        return self._catalogues[name]


def _checked(root: Path, whole: bool) -> Manifest:
    """The manifest, its files checked; read again where a new conversion took its place."""
    manifest = read_manifest(root)
    for _ in range(_ATTEMPTS):
        fault = next(faults_of(root / manifest.data, manifest, whole), None)
        latest = read_manifest(root)
        if fault is None or latest == manifest:
            break
        manifest = latest
    if fault is not None:
        raise StoreError(fault.path, fault.problem)
    return manifest
