"""JSON lines: one object a line, read by pyarrow; packed or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .errors import LogError
from .formats import guard, guarded, open_bytes
from .reading import TypedFile

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 1 << 24


class JsonFile(TypedFile):
    """One file of JSON lines.

    What its fields hold is found out over every line: pyarrow alone would take the types of the
    first block, and read texts that look like a day as times. Here texts stay texts.

    Args:
        name: its path or URI.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        found: pa.Schema | None = None
        for block in self._blocks():
            first = block.lstrip()[:1]
            if found is None and first != b"{":
                raise LogError(
                    f"{name} holds no JSON lines: it begins with {first.decode(errors='replace')!r}"
                    ", expected one object {...} a line (of one array, pandas makes that: "
                    "pandas.read_json(FILE).to_json(NEW, orient='records', lines=True))"
                )
            schema = _without_times(guard(name, lambda block=block: _read(block).schema))
            found = schema if found is None else self._joined(found, schema)
        if found is None:
            raise LogError(f"{name} holds nothing but blanks; write it again or leave it out")
        self.schema = found

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time."""
        import pyarrow as pa

        wanted = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in wanted])

        def read() -> Iterator[pa.RecordBatch]:
            for block in self._blocks():
                yield from _read(block, schema).to_batches(max_chunksize=rows)

        return guarded(self.name, read())

    def _joined(self, found: pa.Schema, more: pa.Schema) -> pa.Schema:
        import pyarrow as pa

        try:
            return pa.unify_schemas([found, more], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise LogError(
                f"{self.name}: a field is of one kind in some lines and of another in others "
                f"({str(error).strip().splitlines()[0]}); write it alike in all of them"
            ) from None

    def _blocks(self) -> Iterator[bytes]:
        """The file in pieces of whole lines."""
        rest = b""
        with open_bytes(self.name) as stream:
            while block := guard(self.name, lambda: stream.read(BLOCK_BYTES)):
                whole, line_end, tail = (rest + block).rpartition(b"\n")
                if whole.strip():
                    yield whole + line_end
                rest = tail
        if rest.strip():
            yield rest


def _read(block: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Some whole lines, in one piece: no object lies across two of pyarrow's own blocks."""
    import pyarrow as pa
    from pyarrow import json

    known = {} if schema is None else {"unexpected_field_behavior": "ignore"}
    return json.read_json(
        pa.BufferReader(block),
        read_options=json.ReadOptions(block_size=len(block)),
        parse_options=json.ParseOptions(explicit_schema=schema, **known),
    ).combine_chunks()


def _without_times(schema: pa.Schema) -> pa.Schema:
    """The schema in which what pyarrow took for times is text, in nested fields too."""
    import pyarrow as pa

    def text(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_timestamp(kind):
            return pa.string()
        if pa.types.is_list(kind):
            return pa.list_(text(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([field.with_type(text(field.type)) for field in kind])
        return kind

    return pa.schema([field.with_type(text(field.type)) for field in schema])
