"""Docstrings as Markdown: their roles become links and mathematics.

The package's docstrings are Google's, with a few of Sphinx's roles (``:class:``, ``:math:``), which
editors show as they are. Names that the reference does not explain stay code.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|obj|exc):`(~?)([^`]+)`", re.S)
_INLINE = re.compile(r":math:`([^`]+)`", re.S)
_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*|[ \t]*))*)", re.M)
_EXAMPLE = re.compile(r"^( *)Example:$", re.M)
_LITERAL = re.compile(r"::(?=\n\n {4})")
_TABLE = re.compile(r"^( *)(={3,}(?: +={3,})+)\n((?:\1.*\S.*\n)+)\1\2$", re.M)


def as_markdown(text: str, scope: Any) -> str:
    """A docstring's text as Markdown.

    Args:
        text: the docstring.
        scope: griffe's object that it belongs to, where its names are looked up.
    """
    text = _TABLE.sub(_table, text)
    text = _EXAMPLE.sub(r"\1Examples:", text)
    text = _BLOCK.sub(_displayed, text)
    text = _INLINE.sub(lambda found: f"${' '.join(found[1].split())}$", text)
    text = _ROLE.sub(lambda found: _linked(found[1], " ".join(found[2].split()), scope), text)
    return _LITERAL.sub(":", text)


def _table(found: re.Match[str]) -> str:
    """A table of Sphinx's simple kind as one of Markdown's."""
    indent, rule, lines = found.groups()
    starts = [column.start() for column in re.finditer("=+", rule)]
    rows: list[list[str]] = []
    above: list[list[str]] = []
    for line in (line.removeprefix(indent) for line in lines.rstrip().split("\n")):
        if line.startswith("==="):
            above, rows = rows, []
        elif line.startswith(" ") and rows:  # goes on in the row above
            for part in re.finditer(r"\S+(?: \S+)*", line):
                column = max(at for at, start in enumerate(starts) if start <= part.start())
                rows[-1][column] += " " + part.group()
        else:
            rows.append(_cells(line, starts))
    head = above[0] if above else [""] * len(starts)
    table = [head, [":--"] * len(starts), *rows]
    return "\n".join(f"{indent}| {' | '.join(cells)} |" for cells in table)


def _cells(line: str, starts: list[int]) -> list[str]:
    """By the gaps, or where these are not as many as the columns, by where columns start.

    A cell that runs on into the next column is not cut in two: the next one is empty then.
    """
    cells = re.split(" {2,}", line.strip())
    if len(cells) == len(starts):
        return cells
    cuts = [start for start in starts if start == 0 or line[start - 1 : start] == " "]
    ends = dict(zip(cuts, [*cuts[1:], None], strict=True))
    return [line[start : ends[start]].strip() if start in ends else "" for start in starts]


def _displayed(found: re.Match[str]) -> str:
    body = " ".join(textwrap.dedent(found[2]).split())
    return f"{found[1]}$$\n{found[1]}{body}\n{found[1]}$$\n\n"


def _linked(short: str, name: str, scope: Any) -> str:
    shown = name.rpartition(".")[2] if short else name
    target = name if name.startswith("torchrl_drpo") else _resolved(name, scope)
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _resolved(name: str, scope: Any) -> str:
    first, dot, rest = name.partition(".")
    try:
        return scope.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        return name


class Roles(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Goes through a package's own objects, names from elsewhere left out."""
        waiting: list[Any] = [pkg]
        while waiting:
            each = waiting.pop()
            if each.docstring:
                each.docstring.value = as_markdown(each.docstring.value, each)
            waiting += [member for member in each.members.values() if not member.is_alias]
