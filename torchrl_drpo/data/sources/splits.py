"""A log cut into splits: runs of batches that are read without reading what stands before them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .reading import LogFile

#: No log has rows of fewer bytes as text: more are guessed of a file than it has.
_ROW_BYTES = 8


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of one file.

    Args:
        file: its number among the log's.
        start: the first row, a multiple of the rows of a batch.
        stop: the row behind the last; None for the file's end.
    """

    file: int
    start: int = 0
    stop: int | None = None


InputSplit = tuple[Stretch, ...]


def splits_of(
    files: Sequence[LogFile], names: Sequence[str], batch_rows: int, rows: int
) -> list[InputSplit]:
    """Splits of about ``rows`` rows, in the log's order.

    A file that does not know how many rows it has, such as text, is never cut.

    Args:
        files: the log's.
        names: their paths, empty for a frame.
        batch_rows: rows of a batch; a file is cut between batches only.
        rows: of a split.
    """
    batches = max(1, rows // batch_rows)
    most = batches * batch_rows
    out: list[InputSplit] = []
    here: list[Stretch] = []
    size = 0

    def close() -> None:
        nonlocal here, size
        if here:
            out.append(tuple(here))
        here, size = [], 0

    for number, file in enumerate(files):
        known = file.num_rows
        if known is None:
            here.append(Stretch(number))
            size += _guess(names[number]) if names else most
        start = 0
        while known is not None and start < known:
            room = -(-(most - size) // batch_rows) * batch_rows
            stop = min(start + room, known)
            here.append(Stretch(number, start, stop))
            size, start = size + stop - start, stop
            if size >= most:
                close()
        if size >= most:
            close()
    close()
    return out


def _guess(name: str) -> int:
    """No fewer rows than a file of text has, by its size; many where that is not known."""
    try:
        return os.stat(name).st_size // _ROW_BYTES
    except OSError:
        return 1 << 62
