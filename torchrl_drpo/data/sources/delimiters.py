r"""What stands between the columns of a text file, seen in its first lines."""

from __future__ import annotations

import re
from typing import Any

#: In the order in which they are preferred.
SIGNS = (",", ";", "\t", "|", "::")
#: pyarrow reads one character; no text holds this one.
UNIT_SEPARATOR = "\x1f"
_LINES = 50
_QUOTED = re.compile(r'"[^"]*"')


def find_delimiter(sample: str, usual: str, blanks: bool = True) -> str:
    r"""What stands equally often in every line; of several, what stands there most often.

    Args:
        sample: the first lines; what follows the last line break may be cut.
        usual: what files of this name mostly have.
        blanks: whether one may stand between columns, where no other sign does.

    Returns:
        One of :data:`SIGNS`; a blank where none of them occurs in the first line, but every line
        has as many blanks; at last ``usual``.

    Examples:
        >>> find_delimiter("u;i;price\n1;2;0,5\n3;4;0,1\n", ",")
        ';'
        >>> find_delimiter("1 10 3.5\n1 11 2\n", ",")
        ' '
        >>> find_delimiter('1::Heat, 1995::Action|Crime\n2::"7::8"::Crime\n', ",")
        '::'
    """
    whole = sample.rpartition("\n")[0] or sample
    lines = [line for line in _QUOTED.sub("", whole).splitlines() if line.strip()]
    lines = lines[:_LINES] or [""]
    order = dict.fromkeys((usual, *SIGNS))
    counts = {sign: [line.count(sign) for line in lines] for sign in (*order, " ")}
    steady = [sign for sign in order if counts[sign][0] and len(set(counts[sign])) == 1]
    if steady:
        return max(steady, key=lambda sign: counts[sign][0])  # the first of equals
    some = [sign for sign in order if counts[sign][0]]
    if some:
        return some[0]
    steady_blanks = counts[" "][0] > 0 and len(set(counts[" "])) == 1
    return " " if blanks and steady_blanks else usual


class Replaced:
    """A stream of bytes in which one word stands for another, as pyarrow reads from it."""

    closed = False

    def __init__(self, stream: Any, old: bytes, new: bytes) -> None:
        self._stream, self._old, self._new = stream, old, new
        self._kept = b""

    def read(self, size: int = -1) -> bytes:
        """Some more bytes, at most ``size``; nothing at the end."""
        if size is None or size < 0:
            return self._replaced(self._kept + self._stream.read())
        while True:
            more = self._stream.read(max(size - len(self._kept), 1))
            data = self._kept + more
            # A word that goes on in what follows waits for it.
            tail = 0 if not more else _begun(data, self._old)
            self._kept = data[len(data) - tail :]
            out = self._replaced(data[: len(data) - tail])
            if out or not more:
                return out

    def _replaced(self, data: bytes) -> bytes:
        return data.replace(self._old, self._new)

    def close(self) -> None:
        """Closes what it reads from."""
        self.closed = True
        self._stream.close()


def _begun(data: bytes, word: bytes) -> int:
    """How many of the last bytes may be the beginning of the word, after words that are whole.

    >>> _begun(b"1:", b"::"), _begun(b"1::", b"::"), _begun(b"1:::", b"::")
    (1, 0, 1)
    """
    rest = data.rpartition(word)[2] if len(word) > 1 else b""
    if len(set(word)) == 1:  # of ':::' the first two are a word
        run = len(data) - len(data.rstrip(word[:1]))
        return run % len(word)
    return next((k for k in range(len(word) - 1, 0, -1) if rest.endswith(word[:k])), 0)
