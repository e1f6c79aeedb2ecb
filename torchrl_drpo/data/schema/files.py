"""How the files of a log are written, where they do not say so themselves."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from .types import check_once, check_types, shown


@dataclass(frozen=True)
class TextFiles:
    r"""What a text file (CSV, TSV, ``.dat``, ``.inter``, ...) leaves open.

    Args:
        header: names of the columns, for files whose first line is a row already.
        delimiter: what stands between two columns, such as ``";"``, ``"\t"`` or ``"::"``; seen in
            the file's first lines by default.
        encoding: of the text, by Python's names, such as ``"latin-1"``; UTF-8 by default.

    Raises:
        ValueError: names the field and what was expected.

    Examples:
        >>> TextFiles(header=["user", "item", "rating", "time"], delimiter="::").header
        ('user', 'item', 'rating', 'time')
        >>> TextFiles(encoding="latin1-ish")
        Traceback (most recent call last):
        ValueError: files.encoding must be an encoding's name, such as 'latin-1', got 'latin1-ish'
    """

    header: tuple[str, ...] = ()
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "files.")
        check_once(self.header, "files: column")
        if self.delimiter is not None and ("\n" in self.delimiter or '"' in self.delimiter):
            raise ValueError(
                "files.delimiter must be what stands between two columns, no quote and no line "
                f"break, got {shown(self.delimiter)}"
            )
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                "files.encoding must be an encoding's name, such as 'latin-1', got "
                f"{shown(self.encoding)}"
            ) from None
