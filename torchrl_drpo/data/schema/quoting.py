"""Column names in formulas that Python would not take for names: quoted with backticks."""

from __future__ import annotations

import itertools
import re

_QUOTED = re.compile(r"`([^`]*)`")
#: What may be a column's name although it is no formula: words, and single signs between them.
_BARE = re.compile(r"\w+(?:[ :.#@/-]\w+)*")


def hide_quoted(text: str) -> tuple[str, dict[str, str]]:
    """The text with a plain name of the same length for each quoted one, and what these mean.

    The same length, so that what Python says of a place is true of the text as it was written.

    >>> hide_quoted("`Book-Rating` > 5")
    ('_0___________ > 5', {'_0___________': 'Book-Rating'})
    """
    hidden: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        for number in itertools.count():
            plain = f"_{number}".ljust(len(match[0]), "_")
            if plain not in text and plain not in hidden:
                hidden[plain] = match[1]
                return plain
        raise AssertionError  # numbers do not end

    return _QUOTED.sub(name, text), hidden


def shown_again(text: str, hidden: dict[str, str]) -> str:
    """The text as it was before :func:`hide_quoted`."""
    for plain, name in hidden.items():
        text = text.replace(plain, f"`{name}`")
    return text


def may_be_name(text: str) -> bool:
    """Whether a text that is no formula may be the name of a column.

    >>> may_be_name("rating:float"), may_be_name("is click"), may_be_name("x +")
    (True, True, False)
    """
    return bool(_BARE.fullmatch(text))


def as_name(text: str, columns: list[str]) -> str:
    """A formula that equals a column's name as that column, quoted; others as they are.

    >>> as_name("Book-Rating", ["Book-Rating"]), as_name("click", ["click"]), as_name("a-b", ["a"])
    ('`Book-Rating`', 'click', 'a-b')
    """
    bare = text.strip()
    if bare in columns and not bare.isidentifier() and "`" not in bare:
        return f"`{bare}`"
    return text
