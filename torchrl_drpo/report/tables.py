"""Tables for people: rich on a terminal, Markdown in a report; one description for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column is left-aligned, the others right-aligned.

    Attributes:
        title: what the table shows.
        header: one name a column.
        rows: cells; a row may be shorter than the header.
        emphasis: numbers of the rows to print in bold.
        note: what a reader must know to read it.

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

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) > len(self.header):
                raise ValueError(
                    f"a row of table {self.title!r} has {len(row)} cells for "
                    f"{len(self.header)} columns: {list(row)}"
                )

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, without its title."""
        lines = [
            self._line(self.header),
            "|:--|" + "--:|" * (len(self.header) - 1),
        ]
        for number, row in enumerate(self.rows):
            cells = [f"**{cell}**" if number in self.emphasis and cell else cell for cell in row]
            lines.append(self._line(cells))
        return "\n".join(lines)

    def to_rich(self) -> RichTable:
        """The table for ``rich.print``."""
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, caption=self.note or None, title_justify="left")
        for column, name in enumerate(self.header):
            table.add_column(name, justify="left" if column == 0 else "right", no_wrap=column == 0)
        for number, row in enumerate(self.rows):
            table.add_row(*row, style="bold" if number in self.emphasis else None)
        return table

    def _line(self, cells: Sequence[str]) -> str:
        padded = [*cells, *[""] * (len(self.header) - len(cells))]
        return "| " + " | ".join(padded) + " |"
