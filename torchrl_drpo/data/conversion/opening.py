"""A log and the tables beside it, opened as a schema reads them: what it names is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..sources import BATCH_ROWS, LogError, LogSource
from ..sources.kinds import column_kind
from ..sources.reading import Reading
from .roles import id_columns
from .side_tables import side_table

_Named = tuple[str, LogSource, str]  # what is numbered, where, in which column


def open_source(source: Any, schema: LogSchema, batch_rows: int = BATCH_ROWS) -> LogSource:
    """Opens a log; every column that the schema names is looked for before a row is read.

    Args:
        source: as for :func:`~torchrl_drpo.data.conversion.convert.convert_log`.
        schema: what the columns mean.
        batch_rows: rows of a batch, at least 1.

    Raises:
        FileNotFoundError: if a file is not there.
        LogError: names the file and the column that is missing or there twice.
    """
    log = source
    if not isinstance(log, LogSource):
        log = LogSource(source, batch_rows, beside=schema.side_tables, reading=Reading.of(schema))
    log.columns.check(schema.named(log.columns.names).columns)
    for declared in (schema.items, schema.initial_history):
        table, _ = side_table(log, declared)
        if table is not None and declared is not None:
            table.columns.check(declared.columns)
    return log


def agree_on_ids(
    log: LogSource, schema: LogSchema, known: Mapping[str, Catalogue] | None = None
) -> None:
    """Makes ids that are numbered together of one kind.

    They are text wherever a table, or an earlier numbering, says so: a CSV file follows the others,
    since nothing in it says what its digits are.

    Args:
        log: opened by :func:`open_source`.
        schema: what the columns mean.
        known: an earlier log's catalogues, whose numbers are kept.

    Raises:
        LogError: names the columns that hold integers and those that hold texts.
    """
    for name in id_columns(schema):
        together = [each for each in _numbered(log, schema) if each[0] == name]
        numbering = (known or {}).get(name)
        _agree(together, numbering is not None and len(numbering) > 0 and not numbering.is_integer)


def _numbered(log: LogSource, schema: LogSchema) -> Iterator[_Named]:
    """Columns of users and items, in the log and beside it."""
    for name, column in id_columns(schema).items():
        yield name, log, column
    if schema.history:
        yield "items", log, schema.history
    table, _ = side_table(log, schema.items)
    if table is not None and schema.items is not None:
        yield "items", table, schema.items.id
    past, _ = side_table(log, schema.initial_history)
    if past is not None and schema.initial_history is not None:
        yield "users", past, schema.initial_history.user
        yield "items", past, schema.initial_history.items


def _agree(together: list[_Named], is_text: bool) -> None:
    if len(together) < 2 and not is_text:
        return
    kinds = [_id_kind(log, column) for _, log, column in together]
    if is_text or "string" in kinds:
        for _, log, column in together:
            log.columns.read_as_text(column)
        kinds = [_id_kind(log, column) for _, log, column in together]
    if len({kind for kind in kinds if kind is not None}) > 1:
        found = ", ".join(
            f"{column!r} of {log.name} holds {kind} ids"
            for kind, (_, log, column) in zip(kinds, together, strict=True)
        )
        raise LogError(f"{together[0][0]} are named in two ways: {found}; write them in one")


def _id_kind(log: LogSource, column: str) -> str | None:
    """Integer or string, also of what a list column holds; None where lists hold nothing."""
    import pyarrow as pa

    kind = log.kinds([column], [column])[column]
    if kind == "list":
        held = [each.value_type for each in log.types(column)]
        held = [each for each in held if not pa.types.is_null(each)]
        kind = column_kind(held[0]) if held else None
        kind = "integer" if kind == "float" else kind  # integers with gaps, as pandas writes them
    if kind not in ("integer", "string", None):
        raise LogError(
            f"{log.name}: column {column!r} holds {kind} values, but the schema uses it where "
            "integer or string values are expected"
        )
    return kind
