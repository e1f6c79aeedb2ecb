"""Folders named ``key=value``, as Spark and Hive write them: columns of the files below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .reading import LogFile

if TYPE_CHECKING:
    import pyarrow as pa


def partitioned(file: LogFile) -> LogFile:
    """The file, with the columns that its folders name beside its own."""
    keys = {k: v for k, v in folder_keys(file.name).items() if k not in file.schema.names}
    return PartitionedFile(file, keys) if keys else file


def folder_keys(path: str) -> dict[str, str | None]:
    """Keys and values of a path's folders; None where Hive writes that there is nothing.

    >>> folder_keys("log/day=2024-05-01/country=C%C3%B4te/part-0.parquet")
    {'day': '2024-05-01', 'country': 'Côte'}
    >>> folder_keys("log/user=__HIVE_DEFAULT_PARTITION__/a=b.parquet")
    {'user': None}
    """
    import pyarrow as pa
    from pyarrow import dataset

    folders = [part for part in path.split("/")[:-1] if part.partition("=")[0] != part]
    names = dict.fromkeys(part.partition("=")[0] for part in folders)
    if not folders:
        return {}
    hive = dataset.HivePartitioning(pa.schema([(name, pa.string()) for name in names]))
    found = dataset.get_partition_keys(hive.parse("/".join([*folders, "file"])))
    return {name: found[name] for name in names if name in found}


class PartitionedFile:
    """A file below such folders.

    Args:
        file: the file.
        keys: what its folders say, as text.
    """

    def __init__(self, file: LogFile, keys: Mapping[str, str | None]) -> None:
        import pyarrow as pa

        self._file, self._keys = file, keys
        self.name, self.about, self.num_rows = file.name, file.about, file.num_rows
        self.untyped = {*file.untyped, *keys}
        self.schema = pa.schema([*file.schema, *((key, pa.string()) for key in keys)])

    def text_blocks(self) -> Iterator[pa.RecordBatch]:
        """As the file's; a row of the keys alone, where the file itself knows its types."""
        import pyarrow as pa

        if self._file.untyped:
            for block in self._file.text_blocks():
                yield self._with_keys(block, list(self._keys), {})
        else:
            values = [pa.array([value], pa.string()) for value in self._keys.values()]
            yield pa.RecordBatch.from_arrays(values, list(self._keys))

    def batches(
        self,
        columns: list[str] | None,
        rows: int,
        types: Mapping[str, pa.DataType],
        **where: Any,
    ) -> Iterator[pa.RecordBatch]:
        """The file's rows, each with the same values of the keys."""
        keys = [key for key in self._keys if columns is None or key in columns]
        own = None if columns is None else [name for name in columns if name not in keys]
        # Some column tells how many rows there are.
        read = own if own is None or own else self._file.schema.names[:1]
        of_file = {name: kind for name, kind in types.items() if name not in self._keys}
        for batch in self._file.batches(read, rows, of_file, **where):
            whole = self._with_keys(batch, keys, types)
            yield whole if columns is None else whole.select(columns)

    def _with_keys(
        self, batch: pa.RecordBatch, keys: list[str], types: Mapping[str, pa.DataType]
    ) -> pa.RecordBatch:
        import pyarrow as pa

        arrays, names = list(batch.columns), list(batch.schema.names)
        for key in keys:
            value = pa.scalar(self._keys[key], pa.string()).cast(types.get(key, pa.string()))
            arrays.append(pa.repeat(value, batch.num_rows))
            names.append(key)
        return pa.RecordBatch.from_arrays(arrays, names)
