"""The settings of ``drpo tokenize``: which items, what their vectors are, what codes to make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchrl_drpo.pipeline.config.log import SchemaConfig
from torchrl_drpo.pipeline.config.words import Name, Names

#: What an item table may be that holds numbers alone.
ARRAYS = (".npy", ".safetensors")


@dataclass(frozen=True)
class TokenizeConfig(SchemaConfig):
    """Give every item a semantic ID: a code a level, by residual k-means of the items' vectors.

    The vectors are an embedding column of the item table, else numeric columns of it (--features),
    else what the log's training rows say (items with the same audience are alike). Codes go into a
    new item table beside its other columns; what to put into the schema is printed, and how good
    the codes are: entropy of each level, collisions and what they cost in hits, and whether like
    items share their first codes.

    Attributes:
        logs: Parquet or CSV file, folder, glob or URI of the log, with --schema or --preset; or no
            log, and items alone.
        items: item table (Parquet, CSV, .npy, .safetensors), instead of the schema's. Rows of
            an array are the items 0, 1, ..., where a .safetensors file holds no integers as ids.
        id: its column of ids.
        embedding: its list column of vectors.
        features: numeric columns that make up the vectors instead, each in units of its spread.
        existing: columns of codes that it has, for --report-only, instead of the schema's.
        scale: of the vectors before they are quantised: "none", "unit" (each of length 1),
            "standard" (each column of mean 0 and spread 1); "auto" leaves embeddings as they are,
            takes features standard and vectors from the log at unit length.
        dim: width of vectors that are found in the log.
        levels: codes of an item.
        codes: different codes of a level, at most.
        balanced: give no code of a level to more than its equal share of the items with a vector.
        unique: append a level that numbers the items which share all codes, most popular first.
        report_only: report on the codes that the item table has; write nothing.
        output: Parquet file of the new item table.
        prefix: code columns are called so, and by their number.
        fitted_to: vectors that codes are fitted to, at most; all of them are then coded.
        seed: of everything random; the same one gives the same codes.
        overwrite: replace the file.
        json: print the report as JSON.
    """

    logs: Name = None
    items: Path | None = None
    id: Name = None
    embedding: Name = None
    features: Names = None
    existing: Names = None
    scale: Literal["auto", "none", "unit", "standard"] = "auto"
    dim: int = 64
    levels: int = 3
    codes: int = 256
    balanced: bool = False
    unique: bool = False
    report_only: bool = False
    output: Path = Path("items.codes.parquet")
    prefix: str = "code_"
    fitted_to: int = 262_144
    seed: int = 0
    overwrite: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.logs is not None:
            super().__post_init__()
        elif self.items is None or self.preset is not None or self.schema is not None:
            raise ValueError(
                "name a log (--logs LOG with --schema FILE or --preset NAME), or else the items "
                "alone (--items FILE)"
            )
        for name in ("dim", "levels", "codes", "fitted_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_items()
        if self.existing is not None and not self.report_only:
            raise ValueError("--existing names codes to report on: add --report-only")
        if not self.report_only and self.output.exists() and not self.overwrite:
            raise ValueError(
                f"{self.output} is there already; choose another --output, or --overwrite"
            )

    def _check_items(self) -> None:
        if self.items is None:
            given = [name for name in ("id", "embedding", "existing") if getattr(self, name)]
            if given:
                raise ValueError(f"--{given[0]} names a column of a table that --items names")
            return
        array = self.items.suffix.lower() in ARRAYS
        if array and (self.features is not None or self.existing is not None):
            raise ValueError(f"{self.items} has no columns to name; --features are a table's")
        if not array and self.id is None:
            raise ValueError(f"say which column of {self.items} holds the ids: --id COLUMN")
        if self.embedding is not None and self.features is not None:
            raise ValueError("vectors are an --embedding or made of --features, not both")
