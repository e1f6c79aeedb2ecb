"""Histories from before the log, or brought along by every row, as values + offsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..catalogue import Catalogue
from ..schema import InitialHistory, LogSchema
from ..sources import LogError, LogSource
from ..sources.arrow import item_lists
from ..store.columns import write_array
from ..store.manifest import Array
from .records import known_numbers
from .scan import Outline

_VALUES, _OFFSETS = "initial_values", "initial_offsets"
#: Where the items lie that rows brought along, one row's after the other's.
HISTORY_FILE = f"index/{_VALUES}.bin"


def write_initial_history(
    schema: LogSchema, outline: Outline, folder: Path
) -> tuple[dict[str, Array], int]:
    """Writes ``index/initial_{values,offsets}.bin``, int32 items and int64 offsets.

    One segment a user (or a row, where rows bring their own history); items outside the catalogue
    are left out. Two passes over the table, so the order of its rows does not matter.

    Returns:
        The arrays (none where there is no history), and how many users (or rows) have one that is
        not empty.
    """
    index = folder / "index"
    if schema.history:  # written with the rows
        offsets = np.fromfile(index / f"{_OFFSETS}.bin", dtype=np.int64)
    elif outline.history_table is not None and schema.initial_history is not None:
        offsets = _from_table(outline.history_table, schema.initial_history, outline, index)
    else:
        return {}, 0
    arrays = {
        _VALUES: Array(f"index/{_VALUES}.bin", "int32", (int(offsets[-1]),)),
        _OFFSETS: Array(f"index/{_OFFSETS}.bin", "int64", (len(offsets),)),
    }
    return arrays, int((np.diff(offsets) > 0).sum())


def _from_table(
    table: LogSource, names: InitialHistory, outline: Outline, index: Path
) -> np.ndarray:
    """Histories from a table with one row a user; returns the offsets."""
    users, items = outline.catalogues["users"], outline.catalogues["items"]
    table.kinds([names.user, names.items])
    lengths = np.zeros(len(users), dtype=np.int64)
    for number, _, kept in _histories(table, names, users, items):
        known = number >= 0
        repeats = np.bincount(number[known], minlength=len(users)) + (lengths > 0) > 1
        if repeats.any():
            raw = users.decode([np.flatnonzero(repeats)[0]])[0]
            raise LogError(f"{table.files[0]}: user {raw!r} repeats; expected one row a user")
        lengths[number[known]] = kept[known]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    index.mkdir(exist_ok=True)
    with (index / f"{_OFFSETS}.bin").open("wb") as file:
        write_array(file, offsets)
    path = index / f"{_VALUES}.bin"
    _zeros(path, 4 * int(offsets[-1]))
    if offsets[-1] == 0:
        return offsets
    out = np.memmap(path, dtype=np.int32, mode="r+", shape=(int(offsets[-1]),))
    for number, values, kept in _histories(table, names, users, items):
        wanted = np.repeat(number >= 0, kept)
        place = np.arange(len(values)) - np.repeat(np.cumsum(kept) - kept, kept)
        target = np.repeat(offsets[np.maximum(number, 0)], kept) + place
        out[target[wanted]] = values[wanted]
    out.flush()
    return offsets


def _zeros(path: Path, size: int) -> None:
    """A file that takes its place on the disk now: a mapping cannot say that the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = bytes(1 << 20)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def _histories(table, names, users: Catalogue, items: Catalogue):
    """Yields (user numbers, item numbers one after another, how many of them each user has)."""
    for batch in table.batches([names.user, names.items]):
        number = known_numbers(batch.table.column(names.user), users)
        flat, lengths = item_lists(batch.table.column(names.items), names.padding)
        values = known_numbers(flat, items)
        owner = np.repeat(np.arange(len(lengths)), lengths)[values >= 0]
        yield number, values[values >= 0], np.bincount(owner, minlength=len(lengths))
