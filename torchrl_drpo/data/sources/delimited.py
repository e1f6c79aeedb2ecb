"""Text files of columns: CSV, TSV, ``.dat``, ``.txt``, RecBole's ``.inter``; packed or not.

A file has a header line, unless the schema names the columns (:class:`TextFiles`). What stands
between them is seen in the first lines. RecBole's headers say a type behind each name
(``user_id:token``); the column is then ``user_id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..schema.files import TextFiles
from .delimiters import UNIT_SEPARATOR, Replaced, find_delimiter
from .errors import LogError
from .formats import guard, guarded, open_bytes, plain_name

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES, HEADER_BYTES = 1 << 24, 1 << 16
_ATOMIC = re.compile(r"(.+):(?:token|float|token_seq|float_seq)")
_PLAIN = TextFiles()


class TextFile:
    """One text file; every column is text until all rows of all files were seen.

    Args:
        name: its path or URI.
        files: what the schema says about it.
    """

    num_rows = None

    def __init__(self, name: str, files: TextFiles | None = None) -> None:
        import pyarrow as pa

        self.name, self._files = name, files or _PLAIN
        sample = self._sample()
        kind = plain_name(name)
        usual = "\t" if kind.endswith((".tsv", ".inter")) else ","
        blanks = kind.endswith((".txt", ".dat"))
        self.delimiter = self._files.delimiter or find_delimiter(sample, usual, blanks)
        self._names: list[str] = []
        self._header_lines = 0
        if self._files.header:
            self._names = list(self._files.header)
        names = guard(name, self._first_names)
        atomic = [_ATOMIC.fullmatch(each) for each in names]
        if all(atomic):
            names = [found[1] for found in atomic if found]
            self._names, self._header_lines = names, 1
        self.schema = pa.schema([(each, pa.string()) for each in names])
        self.untyped = frozenset(names)

    @property
    def about(self) -> str:
        """How the file is read, for messages about columns that are not there."""
        said = f"; its columns were taken to be separated by {self.delimiter!r}"
        return said + (
            ""
            if self._files.header
            else ", and its first line to name them (else name them by "
            'the schema\'s "files": {"header": [...]})'
        )

    def text_blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, every column as text; null where nothing is written."""
        import pyarrow as pa

        types = dict.fromkeys(self.schema.names, pa.string())
        return self._blocks(column_types=types, strings_can_be_null=True)

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time, the columns of these types."""
        for block in self._blocks(include_columns=columns, column_types=types):
            for start in range(0, block.num_rows, rows):
                yield block.slice(start, rows)

    def _blocks(self, **convert: Any) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        def read() -> Iterator[pa.RecordBatch]:
            try:
                yield from self._reader(BLOCK_BYTES, **convert)
            except pa.ArrowInvalid as error:
                if "UTF8" in str(error):
                    self._refuse_encoding()
                raise

        return guarded(self.name, read())

    def _first_names(self) -> list[str]:
        """The header, from as little of the file as will do."""
        import pyarrow as pa

        try:
            return list(self._reader(HEADER_BYTES).schema.names)
        except pa.ArrowInvalid:  # the first row is longer than that, or damaged
            return list(self._reader(BLOCK_BYTES).schema.names)

    def _reader(self, block_bytes: int, **convert: Any) -> Any:
        import pyarrow as pa
        from pyarrow import csv

        stream = open_bytes(self.name)
        sign = self.delimiter
        if len(sign.encode()) > 1:
            stream = Replaced(stream, sign.encode(self._encoding), UNIT_SEPARATOR.encode())
            stream, sign = pa.PythonFile(stream, mode="r"), UNIT_SEPARATOR
        return csv.open_csv(
            stream,
            # A quoted text may hold a line break, also where one block of bytes meets the next.
            # Files whose columns are separated by words know no quotes.
            parse_options=csv.ParseOptions(
                delimiter=sign,
                newlines_in_values=True,
                quote_char=False if sign == UNIT_SEPARATOR else '"',
            ),
            convert_options=csv.ConvertOptions(**convert),
            read_options=csv.ReadOptions(
                block_size=block_bytes,
                encoding=self._encoding,
                column_names=self._names or None,
                skip_rows=self._header_lines,
            ),
        )

    @property
    def _encoding(self) -> str:
        return self._files.encoding or "utf8"

    def _sample(self) -> str:
        with open_bytes(self.name) as stream:
            head = guard(self.name, lambda: stream.read(HEADER_BYTES))
        if self._files.encoding is None and head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise LogError(
                f"{self.name} is text in UTF-16; say so to drpo schema (--encoding utf-16) or in "
                'the schema ("files": {"encoding": "utf-16"}), or save it as UTF-8'
            )
        try:
            return head.decode(self._encoding)
        except UnicodeDecodeError as error:
            if error.start < len(head) - 4 and self._files.encoding is None:
                self._refuse_encoding()
            return head.decode(self._encoding, errors="replace")

    def _refuse_encoding(self) -> None:
        """Raises ``LogError`` that names the first line that is no UTF-8."""
        numbered = enumerate(self._lines(), 1)
        number, line = next((n, line) for n, line in numbered if not _is_utf8(line))
        raise LogError(
            f"{self.name}, line {number}: {line[:60]!r} is no UTF-8 text, but probably Latin-1 or "
            "Windows' form of it (cp1252); say so to drpo schema (--encoding latin-1) or in the "
            'schema ("files": {"encoding": "latin-1"}), or save it as UTF-8'
        )

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        with open_bytes(self.name) as stream:
            while block := stream.read(BLOCK_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                yield from lines
        yield rest


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
