"""A page read back by the standard library's parser: its tables, texts and what it refers to."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

#: Attributes that a browser would load something for.
_LOADING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}


class Page(HTMLParser):
    """Tables as rows of cells, headings, all text, all tags, and all references."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.references: list[str] = []
        self._cell = self._heading = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in _LOADING]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True
        elif tag == "h2":
            self.headings.append("")
            self._heading = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag == "h2":
            self._heading = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data
        if self._heading:
            self.headings[-1] += data

    def table(self, first: str) -> list[dict[str, str]]:
        """The rows of the table whose first heading is given, by heading."""
        (found,) = (rows for rows in self.tables if rows and rows[0][0] == first)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]
