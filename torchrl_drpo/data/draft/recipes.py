"""What a row was worth: a recipe for each kind of feedback."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence

from ..schema import EventValues, Percentile, RewardFormula
from ..schema.formula import FUNCTIONS
from ..schema.quality import DURATION_BUCKET, USER, Quality
from .names import CLICK, DURATION, DWELL, EVENT, ITEM, PLAYS, RATING, SPAN, WORTH, hits, words_of
from .profile import FEW, Profile
from .roles import Notes

Recipe = Callable[[Sequence[Profile], bool, Notes], Quality | None]


def ratings(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """A rating is worth its rank among the same user's: people use the scale differently."""
    found = [c for c in columns if c.is_number and c.kind != "boolean" and c.distinct > 1]
    found = [c for c in found if hits(c.name, RATING) == 2 and c.distinct <= FEW and c.high <= 100]
    if not found:
        return None
    best = found[0]
    notes.because(
        f"quality: {best.name!r} is a rating from {best.low:g} to {best.high:g}; a row is worth "
        "its rank among the ratings" + (" of the same user" if by_user else "")
    )
    if best.low == 0 and best.high > 5:
        notes.ask(f"is {best.name!r} 0 the worst rating, or does it say that nothing was rated?")
    return Percentile(quoted(best.name), by=(USER,) if by_user else ())


def funnel(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """What each event of a column of events is worth."""
    found = [c for c in columns if c.kind == "string" and 1 < c.distinct <= 30 and _events(c)]
    found.sort(key=lambda c: (-hits(c.name, EVENT), -len(_events(c))))
    if not found:
        return None
    best, known = found[0], _events(found[0])
    values = {str(value): float(known.get(str(value), 0)) for value in best.values}
    notes.because(f"quality: {best.name!r} names events ({', '.join(values)}): a funnel")
    notes.ask(f"what is each event worth? The draft says {values}")
    return EventValues(best.name, values)


def dwell(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """Time spent: its rank among things as long, or log(1 + time) of what was clicked."""
    spent = [c for c in columns if c.is_number and not c.is_binary and _is_span(c)]
    if not spent:
        return None
    best = spent[0]
    long = [c for c in columns if c.is_number and c.high > 1 and _is_length(c)]
    long = [c for c in long if c is not best and not _is_span(c)]
    _ask_missing(best, notes)
    if long:
        notes.because(
            f"quality: {best.name!r} is time spent and {long[0].name!r} how long the item is; a "
            "row is worth the rank of its time among items about as long"
        )
        notes.ask(f"are {best.name!r} and {long[0].name!r} above 0 where nothing is wrong?")
        by = (DURATION_BUCKET,)
        return Percentile(quoted(best.name), by=by, duration=quoted(long[0].name))
    clicked = [c for c in columns if c.is_binary and hits(c.name, CLICK)]
    if clicked:
        click, time = quoted(clicked[0].name), quoted(best.name)
        notes.because(
            f"quality: {clicked[0].name!r} says what was clicked, {best.name!r} the time spent "
            "there; a click is worth 1 and the logarithm of its time"
        )
        return RewardFormula(f"{click} * (1 + log1p(max({time}, 0)))")
    notes.because(f"quality: {best.name!r} is time spent; a row is worth its rank")
    return Percentile(quoted(best.name), by=(USER,) if by_user else ())


def clicks(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """A column of zeros and ones."""
    found = [c for c in columns if c.is_binary and c.distinct == 2]
    found.sort(key=lambda c: -hits(c.name, CLICK))
    if not found or not (hits(found[0].name, CLICK) or len(found) == 1):
        return None
    best = found[0]
    notes.because(f"quality: {best.name!r} is 0 or 1")
    if len(found) > 1:
        others = ", ".join(c.name for c in found[1:9]) + ", ..." * (len(found) > 9)
        notes.ask(f"is {best.name!r} alone what a row is worth? Also 0 or 1: {others}")
    _ask_missing(best, notes)
    return RewardFormula(quoted(best.name))


def plays(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """How often, or how much: the rank among the same user's numbers."""
    found = [c for c in columns if c.is_number and c.distinct > 1 and c.low >= 0]
    found = [c for c in found if hits(c.name, PLAYS) and not c.is_binary]
    if not found:
        return None
    best = found[0]
    notes.because(
        f"quality: {best.name!r} counts, from {best.low:g} to {best.high:g}; a row is worth its "
        "rank among the same user's"
        if by_user
        else f"quality: {best.name!r} counts"
    )
    _ask_missing(best, notes)
    return Percentile(quoted(best.name), by=(USER,) if by_user else ())


def number(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """The only number that is left, whatever it is."""
    found = [c for c in columns if c.is_number and c.distinct > 1]
    if len(found) != 1:
        return None
    notes.because(f"quality: {found[0].name!r} is the only number that is left")
    notes.ask(f"does {found[0].name!r} say how good a row was, and is more of it better?")
    _ask_missing(found[0], notes)
    return RewardFormula(quoted(found[0].name))


def positives(columns: Sequence[Profile], by_user: bool, notes: Notes) -> Quality | None:
    """Nothing tells rows apart: each is something that a user chose."""
    notes.because("quality: no column tells good rows from poor ones, so each is worth 1")
    notes.ask(
        "does a column say how good a row was? Else the log is of positives alone: it can be "
        "imitated (bc), and objectives that compare rows learn nothing from it"
    )
    return RewardFormula("1")


#: In the order in which they are tried.
RECIPES: dict[str, Recipe] = {
    "ratings": ratings,
    "funnel": funnel,
    "dwell": dwell,
    "clicks": clicks,
    "plays": plays,
    "number": number,
    "positives": positives,
}


def quoted(name: str) -> str:
    """A column's name as a formula reads it.

    >>> quoted("click"), quoted("Book-Rating"), quoted("max")
    ('click', '`Book-Rating`', '`max`')
    """
    plain = name.isidentifier() and not keyword.iskeyword(name) and name not in FUNCTIONS
    return name if plain else f"`{name}`"


def _events(c: Profile) -> dict[str, int]:
    """The values that are known as events, and their worth: by their last word that is known."""
    out = {}
    for value in c.values:
        known = [WORTH[word] for word in words_of(str(value)) if word in WORTH]
        if known:
            out[str(value)] = max(known)
    return out


def _is_span(c: Profile) -> bool:
    words = set(c.words)
    spent = words & set(DWELL)
    return bool("dwell" in words or (spent and (words & set(SPAN) or "ratio" in words)))


def _is_length(c: Profile) -> bool:
    """How long an item is, by its name: ``duration``, ``track_seconds``."""
    return bool(hits(c.name, DURATION) or (hits(c.name, ITEM) and set(c.words) & set(SPAN)))


def _ask_missing(c: Profile, notes: Notes) -> None:
    if c.missing:
        notes.ask(
            f"{c.missing} of {c.rows} rows have no {c.name!r}: what are they worth? A quality "
            "needs a number in every row"
        )
