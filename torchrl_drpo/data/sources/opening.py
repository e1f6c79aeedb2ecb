"""A path as a file of its kind, ready to be read."""

from __future__ import annotations

from ..schema.files import TextFiles
from .delimited import TextFile
from .errors import LogError
from .formats import COMPRESSED, JSON, LOOSE, PARQUET, TEXT, guard, kind_of, open_bytes
from .jsonlines import JsonFile
from .parquet import ParquetFile
from .partitions import partitioned
from .reading import LogFile, Reading


def open_log_file(name: str, reading: Reading) -> LogFile:
    """Opens a file by its name's kind, with the columns that its folders name.

    Raises:
        LogError: if it is empty, of no kind that is read, or of another than its name says.
    """
    kind = kind_of(name)
    if kind is None:
        raise LogError(
            f"{name} is neither Parquet {PARQUET} nor text {(*TEXT, *LOOSE[:2])} nor JSON lines "
            f"{(*JSON, LOOSE[2])}, the latter two also packed {tuple(COMPRESSED)}; rename or "
            "convert it"
        )
    with open_bytes(name) as stream:
        if not guard(name, lambda: stream.read(1)):
            raise LogError(f"{name} is empty (0 bytes); write it again or leave it out")
    if kind != "text" and reading.files != TextFiles():
        raise LogError(
            f"{name} is no text file, but the schema says how it is written as text (files: "
            f"{reading.files}); leave that out"
        )
    if kind == "parquet":
        return partitioned(ParquetFile(name))
    if kind == "json":
        return partitioned(JsonFile(name))
    return partitioned(TextFile(name, reading.files))
