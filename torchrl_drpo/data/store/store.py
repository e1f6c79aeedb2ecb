"""`LogStore`: a converted log, opened for reading."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from ..catalogue import Catalogue
from ..schema import LogSchema
from .columns import map_array
from .folder import FORMAT, VERSION
from .report import ConversionReport


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
