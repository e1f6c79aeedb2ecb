"""Texts that people read: what a misspelt name was meant to be, counts, and safe to print."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'that'?)`` for the closest of the known names, or nothing.

    Example:
        >>> did_you_mean("dprO", ["bc", "drpo"]), did_you_mean("x", ["bc"])
        (" (did you mean 'drpo'?)", '')
    """
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


def counted(count: int, noun: str) -> str:
    """How many of something, for people.

    Example:
        >>> counted(1, "row"), counted(2_000, "row"), counted(0, "user")
        ('1 row', '2,000 rows', '0 users')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    r"""The text with what would command a terminal spelled out: ids and labels come from logs.

    Example:
        >>> print(printable("red\x1b[31m"), printable("é漢\tx"))
        red\x1b[31m é漢\tx
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
