"""Tables show their cells as they are, wherever they are shown."""

from __future__ import annotations

import io
import re
from html import unescape

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from torchrl_drpo.report.tables import Table

NASTY = [
    "[/red]x",
    "[bold]x[/bold]",
    "a|b",
    "<img src=x onerror=alert(1)>",
    "*x*",
    "`x`",
    "\\|",
    "[x](y)",
    "a&lt;b",
]


def shown(table: Table) -> str:
    console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(table.to_rich())
    return console.file.getvalue()


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_shows_what_the_log_says(text: str) -> None:
    assert text in shown(Table("t", ["item", text], [[text, "1"]], note=text))


def test_no_cell_commands_a_terminal() -> None:
    text = shown(Table("t", ["item"], [["red\x1b[31m\x07"]]))
    assert "\x1b[31m" not in text
    assert r"red\x1b[31m\x07" in text


@pytest.mark.parametrize("text", [*NASTY, "_x_", "a_b_c", "~~x~~"])
def test_markdown_shows_what_the_log_says(text: str) -> None:
    page = MarkdownIt("commonmark").enable("table")
    html = page.render(Table("t", ["item", text], [[text, "1"]], emphasis=[0]).to_markdown())
    assert html.count("<tr>") == 2
    cells = re.findall(r"<t[dh][^>]*>(?:<strong>)?(.*?)(?:</strong>)?</t[dh]>", html)
    assert [unescape(cell) for cell in cells] == ["item", text, text, "1"]
