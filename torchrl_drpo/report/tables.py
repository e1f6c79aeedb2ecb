"""Tables for people: rich on a terminal, Markdown in a report; one description for both."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torchrl_drpo.spelling import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable


#: What Markdown reads as more than itself; an underscore only at the edge of a word.
_MARKDOWN = re.compile(r"([\\|<>*`&~\[\]]|(?<!\w)_|_(?!\w))")


def markdown_text(text: str) -> str:
    r"""The text as Markdown that shows it as it is, in one cell of a table.

    Example:
        >>> print(markdown_text("a|b <img> *c*"))
        a\|b \<img\> \*c\*
    """
    return _MARKDOWN.sub(r"\\\1", printable(" ".join(text.split())))


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column is left-aligned, the others right-aligned.

    Attributes:
        title: what the table shows.
        header: one name a column.
        rows: cells; a row may be shorter than the header.
        emphasis: numbers of the rows to print in bold.
        note: what a reader must know to read it.
        styles: on a terminal, rich's style of cells that hold just such a word.

    Raises:
        ValueError: if a row has more cells than the header.

    Examples:
        >>> print(Table("Rewards", ["policy", "reward"], [["BC", "0.21"]]).to_markdown())
        | policy | reward |
        |:--|--:|
        | BC | 0.21 |
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasis: Sequence[int] = ()
    note: str = ""
    styles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) > len(self.header):
                raise ValueError(
                    f"a row of table {self.title!r} has {len(row)} cells for "
                    f"{len(self.header)} columns: {list(row)}"
                )

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, without its title; every cell reads as it is."""
        return self.with_cells(markdown_text).to_raw_markdown()

    def to_raw_markdown(self) -> str:
        """The same of cells that are Markdown already."""
        lines = [
            self._line(self.header),
            "|:--|" + "--:|" * (len(self.header) - 1),
        ]
        for number, row in enumerate(self.rows):
            cells = [f"**{cell}**" if number in self.emphasis and cell else cell for cell in row]
            lines.append(self._line(cells))
        return "\n".join(lines)

    def with_cells(self, change: Callable[[str], str]) -> Table:
        """The same table with every cell and heading changed."""
        rows = [[change(cell) for cell in row] for row in self.rows]
        return replace(self, header=[change(name) for name in self.header], rows=rows)

    def to_rich(self) -> RichTable:
        """The table for ``rich.print``."""
        from rich.table import Table as RichTable
        from rich.text import Text

        def plain(cell: str) -> Text:
            style = self.styles.get(cell, "")
            return Text(
                printable(cell), style=style
            )  # ids and labels come from logs: no markup, no commands

        caption = plain(self.note) if self.note else None
        table = RichTable(title=plain(self.title), caption=caption, title_justify="left")
        for column, name in enumerate(self.header):
            left = column == 0
            table.add_column(plain(name), justify="left" if left else "right", no_wrap=left)
        for number, row in enumerate(self.rows):
            table.add_row(*map(plain, row), style="bold" if number in self.emphasis else None)
        return table

    def _line(self, cells: Sequence[str]) -> str:
        padded = [*cells, *[""] * (len(self.header) - len(cells))]
        return "| " + " | ".join(padded) + " |"
