"""The settings of ``drpo schema``: which log to look at, and where its draft goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from torchrl_drpo.pipeline.config.log import check_dataset
from torchrl_drpo.pipeline.config.words import Log, Name, Names

if TYPE_CHECKING:
    from torchrl_drpo.data import TextFiles


@dataclass(frozen=True)
class SchemaDraftConfig:
    """Look at a log and draft its schema: what its columns seem to be, why, and what to answer.

    The schema goes to stdout (or to a file) as JSON, everything else to stderr.

    Attributes:
        logs: file, folder, glob or URI of the log: Parquet, CSV and other text, JSON lines.
        dataset: or: a published log by its name, whose schema is known.
        root: folder of the published files.
        output: JSON file for the schema, instead of stdout.
        kind: of feedback, where the draft does not find it.
        header: names of the columns, for text files without a header.
        delimiter: what stands between columns of text files, where it is not seen.
        encoding: of text files that are not UTF-8, such as latin-1.
        rows: how many of the first rows are looked at.
        overwrite: replace the file.
    """

    logs: Annotated[Log, tyro.conf.Positional] = None
    dataset: Name = None
    root: Path | None = None
    output: Path | None = None
    kind: Literal["ratings", "funnel", "dwell", "clicks", "plays", "number", "positives"] | None = (
        None
    )
    header: Names = None
    delimiter: Name = None
    encoding: Name = None
    rows: int = 200_000
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_dataset(self)
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")
        if self.output is not None and self.output.exists() and not self.overwrite:
            raise ValueError(f"{self.output} is there already; choose another file, or --overwrite")

    def text_files(self) -> TextFiles | None:
        """What was said about text files, None where that is nothing."""
        from torchrl_drpo.data import TextFiles

        if not (self.header or self.delimiter or self.encoding):
            return None
        return TextFiles(self.header or (), self.delimiter, self.encoding)
