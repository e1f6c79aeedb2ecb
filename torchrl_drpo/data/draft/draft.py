"""`draft_schema`: a log in, a schema to begin with out, and what only the log's owner knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..schema import Lists, LogSchema, TextFiles
from ..schema.keys import RESERVED
from ..schema.quality import Quality
from ..sources import LogError, LogSource
from ..sources.reading import Reading
from .names import CLICK, CLICKED, HISTORY, ITEM, SHOWN, hits
from .profile import FEW, Profile, profiles
from .recipes import RECIPES
from .roles import Notes, find_surroundings, find_time, find_who_and_what

ROWS = 200_000
_COMMA = re.compile(r"[+-]?\d+(\.\d{3})*,\d+")
_MARKED = re.compile(r"\S+-[01](?: \S+-[01])*")


@dataclass(frozen=True)
class Draft:
    """A first schema of a log.

    Args:
        schema: a schema that fits the log's columns; whether it says what they mean is for the
            log's owner to judge.
        reasons: why each column was taken for what it is.
        questions: what the rows do not say.
        rows: how many rows were looked at.
    """

    schema: LogSchema
    reasons: tuple[str, ...]
    questions: tuple[str, ...]
    rows: int

    def __str__(self) -> str:
        lines = [f"looked at {self.rows} rows"]
        lines += [f"  {reason}" for reason in self.reasons]
        if self.questions:
            lines += ["to be answered by you:", *(f"  {question}" for question in self.questions)]
        return "\n".join(lines)


def draft_schema(
    source: Any, *, kind: str | None = None, files: TextFiles | None = None, rows: int = ROWS
) -> Draft:
    """Looks at a log and drafts its schema.

    Args:
        source: as for :func:`~torchrl_drpo.data.convert_log`.
        kind: of feedback, a key of :data:`~.recipes.RECIPES`; found by default.
        files: what text files leave open, such as the names of columns without a header.
        rows: how many of the first rows are looked at, at least 1.

    Raises:
        ValueError: for an unknown kind.
        LogError: if the log cannot be read, no column may be an item, or none is feedback of the
            kind that was asked for.

    Examples:
        >>> import pandas as pd
        >>> times = [1.5e9, 1.6e9, 1.6e9]
        >>> log = dict(userId=[1, 1, 2], movieId=[7, 8, 7], rating=[3.5, 5.0, 1.0], timestamp=times)
        >>> draft = draft_schema(pd.DataFrame(log))
        >>> draft.schema.user, draft.schema.item, draft.schema.time, draft.schema.quality
        ('userId', 'movieId', 'timestamp', Percentile(value='rating', by=('user',), ...))
    """
    if kind is not None and kind not in RECIPES:
        raise ValueError(f"kind must be one of {list(RECIPES)}, got {kind!r}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    notes = Notes()
    log = LogSource(source, reading=Reading(files=files or TextFiles()))
    source = source if log.frame is None else log.frame
    files, log = _with_header(source, log, files, notes)
    columns = profiles(log, rows)
    lists = _lists(columns, notes)
    if lists is not None:
        reading = Reading(files=files or TextFiles(), lists=lists)
        columns = profiles(LogSource(source, reading=reading), rows)
    if not columns:
        raise LogError("the log has no rows to look at")
    fields: dict[str, Any] = {"files": files, "lists": lists}
    rest = [c for c in columns if lists is None or c.name not in (lists.number, lists.place)]
    fields |= find_time(rest, notes)
    rest = _without(rest, fields)
    entry = None if lists is None else next((c for c in rest if c.name == lists.columns[0]), None)
    user, item = find_who_and_what(rest, notes, entry)
    if item is None:
        names = [c.name for c in columns]
        raise LogError(
            f"no column seems to be an item: none of {names} holds ids that repeat; rename one to "
            "`item`, or write the schema by hand"
        )
    fields["item"], fields["user"] = item.name, None if user is None else user.name
    if user is None:
        notes.ask("no column seems to be a user: every row is a user of its own")
    if lists is not None and "time" not in fields and user is not None:
        fields |= _order_of_lists(columns, user, lists, notes)
    rest = _without(rest, fields)
    fields |= find_surroundings(rest, notes)
    if lists is not None and lists.chosen:
        fields.setdefault("slate", lists.number)
        fields.setdefault("position", lists.place)
    if not fields.keys() & {"time", "date", "history"}:
        notes.ask("no column seems to be a time: rows have no order, and histories stay empty")
    rest = _without(rest, fields)
    by_user = fields["user"] is not None and "time" in fields and "history" not in fields
    if not by_user:
        fields["duplicates"] = "keep"
        if fields.pop("session", None):
            notes.ask("sessions need users and times: the draft leaves `session` out")
    fields["quality"] = _quality(rest, kind, by_user, notes)
    fields["labels"] = tuple(
        c.name
        for c in rest
        if c.is_binary and not c.missing and hits(c.name, CLICK) and c.name not in RESERVED
    )
    _ask_about_the_rest(_without(rest, fields), fields, notes)
    return Draft(LogSchema(**fields), tuple(notes.reasons), tuple(notes.questions), columns[0].rows)


def _with_header(
    source: Any, log: LogSource, files: TextFiles | None, notes: Notes
) -> tuple[TextFiles | None, LogSource]:
    """The log, with names for its columns where a text file has none."""
    first, *others = log.columns.files
    for other in others:
        if set(other.schema.names) != set(first.schema.names):
            raise LogError(
                f"{first.name} has the columns {first.schema.names}, but {other.name} "
                f"{other.schema.names}: they are not one log; name the file, or a glob of files"
            )
    sign = getattr(first, "delimiter", None)
    if sign is not None:
        notes.because(f"files: columns are separated by {sign!r}")
    named = [name for name in first.schema.names if name in first.untyped]
    if files is None and named and any(_is_a_value(name) for name in named):
        header = [f"column_{k + 1}" for k in range(len(named))]
        notes.because(
            f"files: the first line, {named[:4]}, is no header: {header} name the columns"
        )
        notes.ask("what are the columns called? Name them: --header NAME NAME ...")
        files = TextFiles(header=tuple(header))
        log = LogSource(source, reading=Reading(files=files))
    return files, log


def _is_a_value(name: str) -> bool:
    """Whether what stands in a header is a number, and so no name."""
    try:
        float(name)
    except ValueError:
        return False
    return True


def _without(columns: list[Profile], fields: dict[str, Any]) -> list[Profile]:
    """The columns that no field names."""
    taken = {value for value in fields.values() if isinstance(value, str)}
    return [c for c in columns if c.name not in taken]


def _ask_about_the_rest(columns: list[Profile], fields: dict[str, Any], notes: Notes) -> None:
    for c in columns:
        if c.kind == "string" and c.values and all(_COMMA.fullmatch(str(v)) for v in c.values):
            notes.ask(
                f"{c.name!r} holds texts such as {c.values[0]!r}: are they numbers? They are read "
                "as such once they are written with a decimal point, and may be the quality then"
            )
    used = {*fields["labels"], *fields["quality"].columns}
    some = [c for c in columns if c.name not in used and c.distinct > 1 and not c.is_binary]
    known = [c.name for c in some if c.kind in ("integer", "string", "boolean")]
    known = [c.name for c in some if c.name in known and c.distinct <= FEW]
    if known:
        more = "" if len(known) <= 8 else f" and {len(known) - 8} more"
        notes.ask(
            f"which of {known[:8]}{more} were known before the choice? They may be `context` (or "
            "`features`, where they are quantities)"
        )


def _lists(columns: list[Profile], notes: Notes) -> Lists | None:
    """Which columns hold lists of which every entry is a row."""
    structs = [c.name for c in columns if c.kind == "structs"]
    if structs:
        notes.because(f"lists: every entry of {structs[0]!r} is a row of its own")
        return Lists(columns=(structs[0],))
    marked = next((c for c in columns if c.kind == "string" and _are_marked(c)), None)
    if marked is not None:
        notes.because(
            f"lists: {marked.name!r} holds texts such as {marked.values[0][:30]!r}: items, each "
            "with 1 or 0 behind it; every one of them is a row, and `clicked` is that number"
        )
        return Lists(columns=(marked.name,), chosen="clicked", separator=" ", mark="-")
    of_ids = [c.name for c in columns if c.kind == "list" and not hits(c.name, HISTORY)]
    chosen = next((name for name in of_ids if hits(name, CLICKED)), None)
    shown = [name for name in of_ids if name != chosen and hits(name, SHOWN)]
    scalar = [c for c in columns if c.may_be_id and hits(c.name, ITEM)]
    if not shown and not scalar:
        shown = [name for name in of_ids if name != chosen and hits(name, ITEM)]
    if not shown:
        return None
    notes.because(f"lists: {shown[0]!r} holds lists of items; every entry is a row")
    if chosen is None:
        notes.ask(f"were the items of {shown[0]!r} shown or chosen? No list says which were chosen")
    else:
        notes.because(f"lists: {chosen!r} holds those that were chosen")
    return Lists(columns=(shown[0],), chosen=chosen)


def _are_marked(c: Profile) -> bool:
    """Whether every text is a list of items as MIND writes those shown: ``"N1-0 N2-1"``."""
    return bool(c.values) and all(_MARKED.fullmatch(str(value)) for value in c.values)


def _order_of_lists(
    columns: list[Profile], user: Profile, lists: Lists, notes: Notes
) -> dict[str, Any]:
    """The place in the list as the time, where every user has one list."""
    count = next(c.distinct for c in columns if c.name == lists.number)
    if count != user.distinct:
        return {}
    notes.because(f"time: {lists.place!r}, since every user has one list, in its order")
    notes.ask(f"is {lists.columns[0]!r} in the order of time, oldest first?")
    return {"time": lists.place}


def _quality(columns: list[Profile], kind: str | None, by_user: bool, notes: Notes) -> Quality:
    for name, recipe in RECIPES.items():
        if kind in (None, name):
            found = recipe(columns, by_user, notes)
            if found is not None:
                return found
    names = [c.name for c in columns]
    raise LogError(f"no column of {names} seems to be feedback of the kind {kind!r}")
