"""Logs that lie in no file of their own: frames and streams of any library that speaks Arrow."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl_drpo.files import digest

from .errors import LogError
from .formats import guarded
from .reading import TypedFile

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "the table"


def as_file(source: Any, rows: int) -> FrameFile | StreamFile | None:
    """A frame or a stream as a file of a log; None for paths and what is neither.

    What lies in memory stays there. A stream (``__arrow_c_stream__``: duckdb, Hugging Face's
    datasets, Arrow's readers, scanners and data sets, lazy frames) can be read once, and may be
    larger than memory: its batches are written to a temporary file, which is then read.

    Args:
        source: anything.
        rows: rows of a batch.

    Raises:
        LogError: if it says that it is a frame, but is none that Arrow can hold.
    """
    import pyarrow as pa

    if isinstance(source, str | os.PathLike | list | tuple):
        return None
    if isinstance(source, FrameFile | StreamFile):  # of another source: a stream is read once
        return source
    try:
        table = _in_memory(source)
        if table is not None:
            return FrameFile(table)
        stream = _stream(source, rows)
        return None if stream is None else StreamFile(stream, rows)
    except LogError:
        raise
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise LogError(
            f"the {type(source).__name__} cannot be read as a table: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _in_memory(source: Any) -> pa.Table | None:
    import pyarrow as pa

    if _is_a(source, "pandas", "DataFrame"):  # its own protocol makes the index a column
        return pa.Table.from_pandas(source, preserve_index=False)
    if _is_a(source, "tensordict", "TensorDictBase"):
        return _flat_tensordict(source)
    if _is_a(source, "polars", "DataFrame") or isinstance(source, pa.Table | pa.RecordBatch):
        return pa.table(source)
    if hasattr(source, "__dataframe__") and not hasattr(source, "__arrow_c_stream__"):
        from pyarrow.interchange import from_dataframe

        return from_dataframe(source)
    return None


def _stream(source: Any, rows: int) -> pa.RecordBatchReader | None:
    import pyarrow as pa

    if _is_a(source, "polars", "LazyFrame"):
        if not hasattr(source, "collect_batches"):  # polars before 1.35
            return pa.table(source.collect()).to_reader()
        batches = source.collect_batches(maintain_order=True)
        return pa.RecordBatchReader.from_batches(
            pa.table(source.collect_schema().to_frame()).schema,
            (batch for frame in batches for batch in pa.table(frame).to_batches()),
        )
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source)
    if _is_a(source, "datasets", "Dataset") or _is_a(source, "datasets", "IterableDataset"):
        tables = iter(source.with_format("arrow").iter(batch_size=rows))
        first = next(tables, source.features.arrow_schema.empty_table())
        every = itertools.chain([first], tables)
        return pa.RecordBatchReader.from_batches(
            first.schema, (batch for table in every for batch in table.to_batches())
        )
    if hasattr(source, "scanner"):  # Arrow's data sets
        source = source.scanner()
    return source.to_reader() if hasattr(source, "to_reader") else None


def _is_a(source: Any, module: str, name: str) -> bool:
    """Whether an object is of a library's class; where that was never imported, it is not."""
    library = sys.modules.get(module)
    return library is not None and isinstance(source, getattr(library, name, ()))


def _flat_tensordict(source: Any) -> pa.Table:
    import pyarrow as pa

    flat = {key: source.get(key) for key in source.keys()}  # noqa: SIM118 (TensorDict)
    nested = [key for key, value in flat.items() if getattr(value, "ndim", 2) != 1]
    if nested:
        raise LogError(
            f"a TensorDict read through a schema holds one number a row and key, but {nested} "
            "are nested or have more dimensions; pass TED rows without a schema"
        )
    return pa.table({key: value.cpu().numpy() for key, value in flat.items()})


class FrameFile(TypedFile):
    """A table in memory."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__()
        self.name, self.table, self.schema = NAME, table, table.schema

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time."""
        table = self.table if columns is None else self.table.select(columns)
        return iter(table.to_batches(max_chunksize=rows))

    def sha256(self) -> str:
        """Digest of the content, without a copy of it."""
        import pyarrow as pa

        found = hashlib.sha256()

        class _Sink:
            closed = False

            def write(self, data: Any) -> int:
                found.update(data)
                return len(data)

            def flush(self) -> None: ...

            def close(self) -> None: ...

        with pa.ipc.new_stream(pa.PythonFile(_Sink(), mode="w"), self.schema) as writer:
            writer.write_table(self.table)
        return found.hexdigest()


class StreamFile(TypedFile):
    """A stream, kept in a temporary file of Arrow's own format as long as this object lives."""

    def __init__(self, stream: pa.RecordBatchReader, rows: int) -> None:
        import pyarrow as pa

        super().__init__()
        self.name, self.schema = NAME, stream.schema
        folder = tempfile.mkdtemp(prefix="drpo-stream-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = Path(folder) / "log.arrows"
        with pa.OSFile(str(self._path), "wb") as file, pa.ipc.new_stream(file, self.schema) as out:
            for batch in _of_size(stream, rows):
                out.write_batch(batch)

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time."""
        import pyarrow as pa

        def read() -> Iterator[pa.RecordBatch]:
            with pa.memory_map(str(self._path)) as file:
                for batch in pa.ipc.open_stream(file):
                    part = batch if columns is None else batch.select(columns)
                    for start in range(0, part.num_rows, rows):
                        yield part.slice(start, rows)

        return guarded(self.name, read())

    def sha256(self) -> str:
        """Digest of the content."""
        return digest(str(self._path))


def _of_size(stream: pa.RecordBatchReader, rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of ``rows`` rows, save the last: libraries hand out thousands of small ones."""
    import pyarrow as pa

    def joined(parts: list[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(parts, stream.schema).combine_chunks()

    parts: list[pa.RecordBatch] = []
    waiting = 0
    for batch in stream:
        parts.append(batch)
        waiting += batch.num_rows
        if waiting >= rows:
            whole = joined(parts)
            full = waiting - waiting % rows
            yield from whole.slice(0, full).to_batches(max_chunksize=rows)
            parts, waiting = whole.slice(full).to_batches(), waiting % rows
    if waiting:
        yield from joined(parts).to_batches()
