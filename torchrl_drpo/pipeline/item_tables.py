"""Tables of items as ``drpo tokenize`` reads them, and as it writes them again with their codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.data.conversion.side_tables import (
    item_codes,
    item_embeddings,
    item_numbers,
    listed_items,
)
from torchrl_drpo.data.sources import LogError, LogSource
from torchrl_drpo.data.sources.arrow import to_float
from torchrl_drpo.data.sources.kinds import column_kind
from torchrl_drpo.data.sources.reading import Reading
from torchrl_drpo.files import replacing, telling_full_disk

#: Columns of a table that is made of an array.
ID, EMBEDDING = "item", "embedding"
_ROWS = 1 << 16


class ItemRows:
    """The rows of an item table.

    Args:
        table: which file, and what its columns mean.
        items: numbers of all items; those of the table alone, ascending, where it is ``None``.
    """

    def __init__(self, table: ItemTable, items: Catalogue | None = None) -> None:
        reading = Reading(frozenset(table.ids), **({"files": table.files} if table.files else {}))
        self.table = table
        self.source = LogSource(table.path, _ROWS, reading=reading)
        self.source.columns.check(list(table.columns))
        # The functions of the conversion ask a schema for its item table, and for nothing else.
        self._schema = LogSchema(item=table.id, items=table, duplicates="keep")
        self.items = Catalogue(listed_items(self._schema, self.source)) if items is None else items

    def embeddings(self) -> Tensor | None:
        """The embedding column, float32 ``[V, D]``, zeros for items that the table lacks."""
        found = item_embeddings(self._schema, self.source, self.items)
        return None if found is None else torch.from_numpy(found)

    def codes(self) -> Tensor | None:
        """The code columns, int64 ``[V, T]``, -1 for items that the table lacks."""
        found = item_codes(self._schema, self.source, self.items)
        return None if found is None else torch.from_numpy(found)

    def features(self, columns: Sequence[str]) -> Tensor:
        """Numeric columns, float32 ``[V, F]``, each of mean 0 and spread 1 over the table's rows.

        A value that is missing is the column's mean, and so are those of items that the table
        lacks.

        Raises:
            LogError: for a column that is not of numbers, or says the same of every item.
        """
        self.source.columns.check(list(columns))
        for name, kind in self.source.kinds(columns).items():
            if kind not in ("integer", "float", "boolean"):
                raise LogError(f"{self.table.path}: feature {name!r} is of kind {kind}, no number")
        out = np.full((len(self.items), len(columns)), np.nan)
        for batch in self.source.batches([self.table.id, *columns]):
            number = item_numbers(_ids_like(batch.table.column(0), self.items), self.items)
            for place, name in enumerate(columns):
                out[number, place] = to_float(batch.table.column(name))
        out[~np.isfinite(out)] = np.nan
        for place, name in enumerate(columns):
            column = out[:, place]
            known = column[~np.isnan(column)]
            if len(known) == 0 or known.min() == known.max():
                raise LogError(
                    f"{self.table.path}: feature {name!r} says the same of every item; leave it out"
                )
            column -= known.mean()
            column /= known.std()
        return torch.from_numpy(np.nan_to_num(out)).float()

    def listed(self) -> Tensor:
        """Which items the table has a row of, bool ``[V]``."""
        out = torch.zeros(len(self.items), dtype=torch.bool)
        for batch in self.source.batches([self.table.id]):
            column = _ids_like(batch.table.column(0), self.items)
            out[torch.from_numpy(item_numbers(column, self.items))] = True
        return out


def _ids_like(column: Any, items: Catalogue) -> Any:
    """Ids that one table reads as integers, as texts where the numbering has texts."""
    import pyarrow.compute as pc

    if items.is_integer or column_kind(column.type) == "string":
        return column
    return pc.cast(column, "string")


def write_item_table(
    path: Path,
    names: Sequence[str],
    codes: Tensor,
    items: Catalogue,
    rows: ItemRows | None,
    id_name: str = ID,
) -> None:
    """Writes a Parquet file with a row an item: the columns that the table has, and the codes.

    Items that the table lacks follow its rows, with nothing but their ids and codes.

    Args:
        path: the file; it is replaced in one step, also where it is the very table that is read.
        names: of the code columns.
        codes: int64 ``[V, T]``.
        items: numbers of the items.
        rows: the table so far; ``None`` for ids and codes alone.
        id_name: name of the column of ids, where there is no table.

    Raises:
        LogError: if the table has a column of such a name.
    """
    import pyarrow.parquet as pq

    if rows is not None:
        taken = [name for name in names if name in rows.source.columns.names]
        if taken:
            raise LogError(
                f"{rows.table.path} has a column {taken[0]!r}; choose another --prefix for the "
                "codes"
            )
    with telling_full_disk(f"writing {path}"), replacing(path) as file:
        writer = None
        try:
            for block in _blocks(names, codes, items, rows, id_name):
                if writer is None:
                    writer = pq.ParquetWriter(file, block.schema, compression="zstd")
                writer.write_table(block.cast(writer.schema))
        finally:
            if writer is not None:
                writer.close()


def _blocks(
    names: Sequence[str], codes: Tensor, items: Catalogue, rows: ItemRows | None, id_name: str
) -> Iterator[Any]:
    import pyarrow as pa

    left = np.ones(len(items), dtype=bool)
    schema = None
    for batch in () if rows is None else rows.source.batches():
        block = pa.Table.from_batches([batch.table])
        number = item_numbers(_ids_like(batch.table.column(rows.table.id), items), items)
        left[number] = False
        for place, name in enumerate(names):
            block = block.append_column(name, pa.array(codes[number, place].numpy()))
        schema = block.schema if schema is None else schema
        yield block
    number = np.flatnonzero(left)
    if not len(number):
        return
    ids = pa.array(items.decode(number))
    given = {name: pa.array(codes[number, place].numpy()) for place, name in enumerate(names)}
    if schema is None:
        yield pa.table({id_name if rows is None else rows.table.id: ids, **given})
        return
    given[rows.table.id] = ids.cast(schema.field(rows.table.id).type)
    columns = [
        given[field.name] if field.name in given else pa.nulls(len(number), field.type)
        for field in schema
    ]
    yield pa.Table.from_arrays(columns, schema=schema)


def table_of_array(path: Path, name: str | None, ids: str | None, out: Path) -> ItemTable:
    """Writes an array of vectors as a table of items, in blocks.

    Args:
        path: a ``.npy`` file ``[V, D]``, or a ``.safetensors`` file with one such tensor.
        name: which tensor; the only one of two dimensions by default.
        ids: which integers ``[V]`` are the ids; the only ones by default, else 0, 1, ...
        out: Parquet file to write.

    Raises:
        ValueError: for a file without vectors, or with several.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors, numbers = _array(path, name, ids)
    count, width = vectors.shape
    with replacing(out) as file:
        schema = pa.schema([(ID, pa.int64()), (EMBEDDING, pa.list_(pa.float32()))])
        with pq.ParquetWriter(file, schema, compression="none") as writer:
            for start in range(0, count, _ROWS):
                stop = min(start + _ROWS, count)
                block = np.ascontiguousarray(vectors[start:stop], dtype=np.float32)
                ends = pa.array(np.arange(0, block.size + 1, width, dtype=np.int32))
                lists = pa.ListArray.from_arrays(ends, pa.array(block.reshape(-1)))
                ids_here = pa.array(numbers[start:stop], pa.int64())
                writer.write_table(pa.Table.from_arrays([ids_here, lists], schema=schema))
    return ItemTable(path=str(out), id=ID, embedding=EMBEDDING)


def _array(path: Path, name: str | None, ids: str | None) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix.lower() == ".npy":
        tensors = {"the array": np.load(path, mmap_mode="r", allow_pickle=False)}
        name, ids = None, None
    else:
        from safetensors.torch import load_file

        tensors = {
            key: (value.float() if value.is_floating_point() else value).numpy()
            for key, value in load_file(path).items()
        }
    found = [key for key, value in tensors.items() if value.ndim == 2 and value.dtype.kind == "f"]
    found = found if name is None else [key for key in found if key == name]
    if len(found) != 1:
        shapes = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in tensors.items())
        raise ValueError(
            f"expected one floating array [V, D] in {path}, found {len(found)} ({shapes}); name "
            "the tensor by --embedding"
        )
    vectors = tensors[found[0]]
    numbers = [
        value
        for key, value in tensors.items()
        if value.ndim == 1 and value.dtype.kind in "iu" and ids in (None, key)
    ]
    if ids is not None and not numbers:
        raise ValueError(f"{path} has no integers {ids!r} to be ids")
    given = numbers[0] if len(numbers) == 1 else np.arange(len(vectors))
    if len(given) != len(vectors):
        raise ValueError(f"{path} holds {len(given)} ids for {len(vectors)} vectors")
    return vectors, given
