"""Names and texts that people read: what a misspelt one was meant to be, and safe to print."""

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


def printable(text: str) -> str:
    r"""The text with what would command a terminal spelled out: ids and labels come from logs.

    Example:
        >>> print(printable("red\x1b[31m"), printable("é漢\tx"))
        red\x1b[31m é漢\tx
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
