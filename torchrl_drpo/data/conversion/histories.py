"""Histories from before the log, or brought along by every row, as values + offsets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..sources import LogError
from ..sources.arrow import list_parts, string_codes, to_int
from ..sources.kinds import column_kind
from .records import encode_items
from .scan import Outline


def write_initial_history(schema: LogSchema, outline: Outline, work: Path) -> int:
    """Writes ``index/initial_{values,offsets}.bin``, int32 items and int64 offsets.

    One segment a user (or a row, where rows bring their own history); items outside the catalogue
    are left out. Two passes over the table, so the order of its rows does not matter.

    Returns:
        How many users (or rows) have a history that is not empty; zero where there is none.
    """
    index = work / "index"
    if schema.history:
        return _from_rows(work)
    if outline.history_table is None or schema.initial_history is None:
        return 0
    users, items = outline.catalogues["users"], outline.catalogues["items"]
    table, names = outline.history_table, schema.initial_history
    table.kinds([names.user, names.items])
    lengths = np.zeros(len(users), dtype=np.int64)
    for number, _, kept in _histories(table, names, users, items):
        known = number >= 0
        repeats = np.bincount(number[known], minlength=len(users)) + (lengths > 0) > 1
        if repeats.any():
            raw = users.decode([np.flatnonzero(repeats)[0]])[0]
            raise LogError(f"{table.files[0]}: user {raw!r} repeats; expected one row a user")
        lengths[number[known]] = kept[known]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets.tofile(index / "initial_offsets.bin")
    path = index / "initial_values.bin"
    if offsets[-1] == 0:
        path.write_bytes(b"")
        return 0
    out = np.memmap(path, dtype=np.int32, mode="w+", shape=(int(offsets[-1]),))
    for number, values, kept in _histories(table, names, users, items):
        wanted = np.repeat(number >= 0, kept)
        place = np.arange(len(values)) - np.repeat(np.cumsum(kept) - kept, kept)
        target = np.repeat(offsets[np.maximum(number, 0)], kept) + place
        out[target[wanted]] = values[wanted]
    out.flush()
    return int((lengths > 0).sum())


def _histories(table, names, users: Catalogue, items: Catalogue):
    """Yields (user numbers, item numbers one after another, how many of them each user has)."""
    for batch in table.batches([names.user, names.items]):
        column = batch.table.column(names.user)
        if column_kind(column.type) == "string":
            words, codes, _ = string_codes(column)
            number = users.encode_array(words, "missing")[codes]
        else:
            number = users.encode_array(to_int(column)[0], "missing")
        flat, lengths = list_parts(batch.table.column(names.items))
        values = encode_items(flat, items)
        owner = np.repeat(np.arange(len(lengths)), lengths)[values >= 0]
        yield number, values[values >= 0], np.bincount(owner, minlength=len(lengths))


def _from_rows(work: Path) -> int:
    """Rows brought their histories: the offsets were written when rows were sorted."""
    values, target = work / "parts" / "history", work / "index" / "initial_values.bin"
    if values.is_file():
        shutil.copyfile(values, target)
    else:
        target.write_bytes(b"")
    offsets = np.fromfile(work / "index" / "initial_offsets.bin", dtype=np.int64)
    return int((np.diff(offsets) > 0).sum())
