"""The kinds of files that a log may consist of, told by their names; bytes, whatever packs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa

#: Name's end -> codec of the bytes.
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".inter")
JSON = (".jsonl", ".ndjson")
#: What a folder holds beside its log as well: notes, settings. Taken where nothing else is there.
LOOSE = (".txt", ".dat", ".json")
EXPECTED = "Parquet, CSV or JSON-lines files"
Read = TypeVar("Read")


def kind_of(file: str) -> str | None:
    """``"parquet"``, ``"text"``, ``"json"`` or None, by the file's name.

    >>> kind_of("a/LOG.CSV.gz"), kind_of("ratings.dat"), kind_of("log.ndjson.zst"), kind_of("a.xls")
    ('text', 'text', 'json', None)
    """
    plain = plain_name(file)
    kinds = {"parquet": PARQUET, "text": (*TEXT, ".txt", ".dat"), "json": (*JSON, ".json")}
    found = next((kind for kind, ends in kinds.items() if plain.endswith(ends)), None)
    return None if found == "parquet" and plain != file.lower() else found


def is_loose(file: str) -> bool:
    """Whether files of this kind lie in folders for other reasons too."""
    return plain_name(file).endswith(LOOSE)


def plain_name(file: str) -> str:
    """The name in small letters, without what says how it is packed."""
    name = file.lower()
    return name.removesuffix(next(filter(name.endswith, COMPRESSED), ""))


def open_file(file: str) -> Any:
    """A file or URI, opened for reading bytes as they lie there."""
    import fsspec

    return fsspec.open(file, "rb").open() if "://" in file else open(file, "rb")


def open_bytes(file: str) -> Any:
    """A file or URI as a stream of what is in it, unpacked."""
    import pyarrow as pa

    handle = open_file(file) if "://" in file else pa.OSFile(file)
    codec = next((COMPRESSED[end] for end in COMPRESSED if file.lower().endswith(end)), None)
    return handle if codec is None else pa.CompressedInputStream(handle, codec)


def guard(file: str, read: Callable[[], Read]) -> Read:
    """What ``read`` returns; what pyarrow raises becomes a ``LogError`` that names the file."""
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise LogError(
            f"{file} cannot be read: truncated, damaged or of another format than its name says "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


def guarded(file: str, stream: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, each under :func:`guard`."""
    while True:
        batch = guard(file, lambda: next(stream, None))
        if batch is None:
            return
        yield batch
