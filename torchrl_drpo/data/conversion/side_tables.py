"""Tables beside the log: the items' ids, codes and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..ids import Ids, plain
from ..schema import InitialHistory, ItemTable, LogSchema
from ..sources import LogError, LogSource
from ..sources.arrow import list_parts, string_codes, to_int, unique_ids
from ..sources.kinds import column_kind
from .ids import IdCounter


def side_table(
    source: LogSource, table: ItemTable | InitialHistory | None
) -> tuple[LogSource | None, str | None]:
    """Opens a side table beside the log: (its source, None) or (None, its path if not there)."""
    if table is None:
        return None, None
    absolute = table.path.startswith("/") or "://" in table.path or source.folder is None
    path = table.path if absolute else f"{source.folder}/{table.path}"
    try:
        return source.table_beside(path, table.ids, table.files), None
    except FileNotFoundError:
        if table.required:
            raise
        return None, table.path


def listed_items(schema: LogSchema, item_table: LogSource | None) -> Ids:
    """The item table's ids, ascending: numbered first, they do not depend on the log."""
    if item_table is None or schema.items is None:
        return np.empty(0, dtype=np.int64)
    column = schema.items.id
    item_table.kinds([column, *schema.items.codes])
    listed = IdCounter()
    for batch in item_table.batches([column]):
        listed.add(*unique_ids(batch.table.column(0)))
    ids, counts = listed.merged()
    if np.any(counts > 1):
        repeated = plain(ids, int(np.argmax(counts > 1)))
        raise LogError(f"item table {item_table.files[0]}: id {repeated!r} repeats")
    return ids


def item_codes(schema: LogSchema, table: LogSource, items: Catalogue) -> np.ndarray | None:
    """Semantic-ID codes int64 ``[V, T]`` by item number, -1 for items that the table lacks."""
    names = schema.items.codes
    if not names:
        return None
    codes = np.full((len(items), len(names)), -1, dtype=np.int64)
    for batch in table.batches([schema.items.id, *names]):
        number = item_numbers(batch.table.column(schema.items.id), items)
        columns = [to_int(batch.table.column(name)) for name in names]
        if any(null.any() for _, null in columns):
            raise LogError(f"{batch.file}: an item lacks one of its codes {names}")
        codes[number] = np.stack([values for values, _ in columns], axis=1)
    return codes


def item_embeddings(schema: LogSchema, table: LogSource, items: Catalogue) -> np.ndarray | None:
    """Embeddings float32 ``[V, D]`` by item number, zero for items that the table lacks."""
    if not schema.items.embedding:
        return None
    out: np.ndarray | None = None
    for batch in table.batches([schema.items.id, schema.items.embedding]):
        vectors = batch.table.column(schema.items.embedding)
        kind = getattr(vectors.type, "value_type", None)  # of lists only
        if kind is None or column_kind(kind) not in ("float", "integer"):
            raise LogError(
                f"{batch.file}: the embedding {schema.items.embedding!r} is of type "
                f"{vectors.type}, expected lists of numbers; write it as such, in Parquet"
            )
        flat, lengths = list_parts(vectors)
        if out is None:
            out = np.zeros((len(items), int(lengths[0])), dtype=np.float32)
        wrong = np.flatnonzero((lengths != out.shape[1]) | (lengths == 0))
        if len(wrong):
            found = lengths[wrong[0]]
            raise LogError(
                f"{batch.file}, row {batch.first_row + int(wrong[0])}: "
                + (
                    f"embedding of {found} numbers, expected {out.shape[1]} as in the first row"
                    if found
                    else "an empty embedding; leave items without a vector out of the table"
                )
            )
        number = item_numbers(batch.table.column(schema.items.id), items)
        numbers = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, out.shape[1])
        with np.errstate(over="ignore"):  # infinite: whoever uses the vectors says whose they are
            out[number] = numbers
    return out


def item_numbers(column: Any, items: Catalogue) -> np.ndarray:
    """Item numbers of a column of raw ids; ``KeyError`` on a stranger, ``LogError`` on a null."""
    if column_kind(column.type) == "string":
        words, codes, null = string_codes(column)
        number = items.encode_flat(words, "missing" if null.any() else "error")[codes]
    else:
        raw, null = to_int(column)
        number = items.encode_flat(raw[~null]) if null.any() else items.encode_flat(raw)
    if null.any():
        raise LogError(f"row {int(np.argmax(null))} of the item table has no id; leave it out")
    return number
