"""Pages as one HTML file: tables and figures inside, no script, nothing loaded from elsewhere.

Texts are plain by default and shown as they are, whatever they hold: ids, labels and names of
columns come from logs. Who writes Markdown gives its own renderer of a line (``inline``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from torchrl_drpo.report.tables import Table
from torchrl_drpo.spelling import printable

#: Turns one line of text into HTML.
Inline = Callable[[str], str]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --soft: #f3f4f6;
  --line: #d5d9de; --dim: #59616b; --link: #0b5cad;
  --held: #18794e; --part: #8a5a00; --not: #b3261e; --none: #59616b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181b; --soft: #1f2428;
  --line: #3a4148; --dim: #a2abb5; --link: #7ab7ff;
  --held: #5fd39b; --part: #f0b849; --not: #ff8a80; --none: #a2abb5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { line-height: 1.2; }
h2 { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); line-height: 1.25; }
p, ul { max-width: 52rem; }
a { color: var(--link); }
code { background: var(--soft); border-radius: 3px; padding: .1em .3em; font-size: .9em; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1rem; padding-bottom: .4rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 3rem); }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th { background: var(--soft); }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; }
td:first-child { min-width: 7rem; }
tr.strong td { font-weight: 650; }
.note, figcaption, .dim { color: var(--dim); font-size: .875rem; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.banner { border: 3px solid var(--not); color: var(--not); border-radius: 6px;
  padding: .8rem 1rem; font-weight: 700; text-transform: uppercase; }
.held, .part, .not, .none { font-weight: 650; white-space: nowrap; }
.held { color: var(--held); } .part { color: var(--part); }
.not { color: var(--not); } .none { color: var(--none); }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }
"""


def plain(text: str) -> str:
    r"""HTML that shows a text as it is, what would command a terminal spelled out.

    Example:
        >>> plain("<script>\x1b 'a' & b")
        '&lt;script&gt;\\x1b &#x27;a&#x27; &amp; b'
    """
    return escape(printable(" ".join(text.split())))


def html_page(title: str, body: Sequence[str], style: str = "", head: str = "") -> str:
    """A whole page.

    Args:
        title: plain text, as for a window.
        body: its blocks, as HTML.
        style: CSS beside :data:`STYLE`.
        head: HTML of the head beside character set, view port, title and style.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{head}<title>{plain(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def html_table(table: Table, inline: Inline = plain) -> str:
    """A table that scrolls within its own box, with its title and its note."""
    rows = []
    for number, row in enumerate(table.rows):
        padded = [*row, *[""] * (len(table.header) - len(row))]
        strong = ' class="strong"' if number in table.emphasis else ""
        rows.append(html_row([inline(cell) for cell in padded], strong))
    words = any(len(cell) > 60 for row in table.rows for cell in row)
    head = [inline(name) for name in table.header]
    note = f'<p class="note">{inline(table.note)}</p>' if table.note else ""
    return table_of(inline(table.title), head, rows, prose=words) + note


def html_facts(facts: Sequence[tuple[str, str]], inline: Inline = plain) -> str:
    """Names and values, a line each."""
    rows = [html_row([inline(name), inline(value)]) for name, value in facts]
    return table_of("", [], rows, prose=True)


def html_row(cells: Sequence[str], attributes: str = "") -> str:
    """A row of cells that are HTML already."""
    return f"<tr{attributes}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def table_of(caption: str, head: Sequence[str], rows: Sequence[str], *, prose: bool) -> str:
    """A table of rows that are HTML already; ``prose`` has sentences, which stand to the left."""
    title = f"<caption><span>{caption}</span></caption>" if caption else ""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    header = f"<thead><tr>{names}</tr></thead>" if head else ""
    kind = ' class="prose"' if prose else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table{kind}>{title}{header}<tbody>\n{body}\n</tbody></table></div>'
    )
