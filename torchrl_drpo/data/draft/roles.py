"""Which column seems to be the user, the item, the time, and what surrounded a choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .names import (
    EVENT,
    HISTORY,
    ITEM,
    POSITION,
    PROPENSITY,
    SESSION,
    SLATE,
    SPLIT,
    TIME,
    USER,
    hits,
)
from .profile import Profile


@dataclass
class Notes:
    """What was found, why, and what only the log's owner knows."""

    reasons: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def because(self, text: str) -> None:
        """Notes a reason."""
        self.reasons.append(text)

    def ask(self, text: str) -> None:
        """Notes a question."""
        self.questions.append(text)


def find_time(columns: Sequence[Profile], notes: Notes) -> dict[str, str]:
    """Schema fields of the time: its column, the unit of numbers, the form of texts."""
    scored = [(2 * hits(c.name, TIME) + _time_like(c), c) for c in columns if _time_like(c)]
    # An integer that might be a time is one where its name says so, or no name says otherwise.
    found = [(s, c) for s, c in scored if s >= 3 or c.time_forms]
    unnamed = [c for _, c in scored if not hits(c.name, ITEM) and not hits(c.name, USER)]
    if (
        not found
        and unnamed
        and (unnamed[0].kind != "integer" or _year(unnamed[0].high, unnamed[0]) < 2040)
    ):
        found = [(1, unnamed[0])]
        notes.ask(f"is {unnamed[0].name!r} the time? Its name does not say so")
    days = [c for c in columns if _is_yyyymmdd(c)]
    if not found:
        if days:
            notes.because(f"date: {days[0].name!r} holds days as YYYYMMDD")
            notes.ask(
                f"the log has days ({days[0].name!r}) but no time of day: rows of one day have no "
                "order of their own, and histories need `time`"
            )
            return {"date": days[0].name}
        return {}
    # Of several, the one that tells more instants apart.
    best = max(found, key=lambda entry: (entry[0], entry[1].distinct))[1]
    out = {"time": best.name}
    others = [c.name for _, c in found if c is not best]
    if best.kind == "time":
        notes.because(f"time: {best.name!r} holds timestamps")
    elif best.time_unit is not None:
        out["time_unit"] = best.time_unit
        notes.because(
            f"time: {best.name!r} holds numbers that are days of {_year(best.low, best)} to "
            f"{_year(best.high, best)} where they count {best.time_unit} since 1970"
        )
    else:
        form = best.time_forms[0]
        example = next(iter(best.values))
        notes.because(f"time: {best.name!r} holds texts such as {example!r}")
        if form != "iso":
            out["time_format"] = form
            if len(best.time_forms) > 1:
                forms = " or ".join(map(repr, best.time_forms))
                notes.ask(
                    f"is {example!r} of the form {forms}? Nothing in the rows decides; the draft "
                    f"says {form!r}, as time_format"
                )
    if others:
        notes.ask(f"is {best.name!r} when the row was logged, or is it {' or '.join(others)}?")
    return out


def _time_like(c: Profile) -> int:
    return 2 * (c.kind == "time") + (c.time_unit is not None) + 2 * bool(c.time_forms)


def _year(number: float, c: Profile) -> int:
    ticks = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[c.time_unit or "s"]
    return int(1970 + number / ticks / 86_400 / 365.25)


def _is_yyyymmdd(c: Profile) -> bool:
    return c.kind == "integer" and c.low >= 19_900_101 and c.high <= 21_001_231


def find_who_and_what(
    columns: Sequence[Profile], notes: Notes, entry: Profile | None = None
) -> tuple[Profile | None, Profile | None]:
    """The columns of users and of items: by their names, else the first two that may be ids.

    Args:
        columns: those that may be one of them.
        notes: where reasons go.
        entry: the column of the entries of lists, which are items.
    """
    ids = [c for c in columns if c.may_be_id and c is not entry]
    user = _named(ids, USER)
    if user is None and (user := _named(ids, SESSION)) is not None:
        notes.ask(f"no column names users: is one {user.name!r} one user for you?")
    item = entry or _named([c for c in ids if c is not user], ITEM)
    by_name = (user is not None, item is not None)
    repeated = [c for c in ids if 1 < c.distinct < c.rows - c.missing and not c.is_binary]
    repeated = [c for c in repeated if not hits(c.name, EVENT)]
    if user is None and item is None and len(repeated) >= 2:
        user, item = repeated[:2]
    elif item is None:
        item = next((c for c in repeated if c is not user), None)
    elif user is None:
        user = next((c for c in repeated if c is not item and not _is_small(c)), None)
    for role, found, named in (("user", user, by_name[0]), ("item", item, by_name[1])):
        if found is None:
            continue
        why = "so it is called" if named else "its values repeat as ids do"
        why = "the entries of the lists" if found is entry else why
        notes.because(f"{role}: {found.name!r}, {why}; {found.distinct} in {found.rows} rows")
        if not named:
            notes.ask(f"is {found.name!r} the {role}? Its name does not say so")
        if found.missing:
            notes.ask(
                f"{found.missing} of {found.rows} rows have no {found.name!r}: are they events of "
                "another kind? They are refused, or left out with --bad-rows drop"
            )
    return user, item


def _is_small(c: Profile) -> bool:
    """Fewer values than a column of users has: a category, a rating."""
    return c.distinct <= 20


def _named(columns: Sequence[Profile], words: tuple[str, ...]) -> Profile | None:
    """The first column that is called so; one that only mentions it, if it has many values."""
    fits = [c for c in columns if hits(c.name, words) == 2]
    fits += [c for c in columns if hits(c.name, words) == 1 and not _is_small(c)]
    return next(iter(fits), None)


def find_surroundings(columns: Sequence[Profile], notes: Notes) -> dict[str, str]:
    """Schema fields of what the log knows of the choice: slate, position, propensity, split, ..."""
    out: dict[str, str] = {}

    def take(
        field_: str, words: tuple[str, ...], fits: bool, c: Profile, why: str, least: int = 2
    ) -> None:
        if field_ not in out and fits and hits(c.name, words) >= least:
            out[field_] = c.name
            notes.because(f"{field_}: {c.name!r}, {why}")

    for c in columns:
        chance = c.kind == "float" and c.low > 0 and c.high <= 1
        if chance and c.missing and hits(c.name, PROPENSITY):
            notes.ask(f"{c.missing} of {c.rows} rows have no {c.name!r}: the draft leaves it out")
        chance = chance and not c.missing
        take("propensity", PROPENSITY, chance, c, "so it is called, and it lies in (0, 1]", 1)
        take("position", POSITION, c.kind == "integer", c, "so it is called, and it is whole")
        parts = {str(value).lower() for value in c.values}
        take(
            "split",
            SPLIT,
            bool(parts & {"train", "test", "valid"}),
            c,
            f"which holds {sorted(parts)}",
        )
        take("slate", SLATE, c.may_be_id and 1 < c.distinct < c.rows, c, "so it is called")
        take("session", SESSION, c.may_be_id and c.distinct < c.rows, c, "so it is called")
        take("history", HISTORY, c.kind == "list", c, "a list of what went before, it seems", 1)
    return out
