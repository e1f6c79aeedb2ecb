"""The report as one HTML file: figures inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.document.parts import Claim, Section
from torchrl_drpo.reproduction.document.report import BANNER, Part, Report, duration

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

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
#: By verdict: class and mark, so that no verdict is told by its colour alone.
MARKS = {
    "held": ("held", "✓"),
    "held in part": ("part", "◐"),
    "not held": ("not", "✗"),
    "not tested": ("none", "–"),
}


def to_html(report: Report, images: Mapping[str, bytes]) -> str:
    """The report as one page.

    Args:
        report: what to show.
        images: by figure's name, a PNG's bytes.
    """
    writer = _Writer(images)
    body = ["<h1>Reproduction report</h1>"]
    if report.quick:
        body.append(f'<p class="banner" role="alert">{escape(BANNER)}</p>')
    body.append(f"<h2>Claims</h2><p>{escape(report.verdicts().capitalize())}.</p>")
    if report.claims:
        body.append(writer.claims(report.claims, linked=True))
    body += ["<h2>What was run</h2>", writer.facts(report.facts), writer.table(report.work())]
    body += [writer.part(part) for part in report.parts]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Reproduction report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


class _Writer:
    """Turns parts of a report into HTML; every text passes through the Markdown parser."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        self._images = images
        self._markdown = _parser()

    def part(self, part: Part) -> str:
        name, section = escape(part.name, quote=True), part.section
        if section is None:
            what = escape(part.problem)
            return f'<h2 id="{name}">{escape(part.name)}</h2><p class="not">Not run: {what}.</p>'
        blocks = [
            f'<h2 id="{name}">{self._inline(section.title)}</h2>',
            f'<p class="dim"><code>drpo reproduce {escape(part.name)}</code>: {part.cells} cells, '
            f"{duration(part.seconds)}</p>",
            *self._body(section),
        ]
        return "\n".join(blocks)

    def _body(self, section: Section) -> list[str]:
        blocks = [self._markdown.render(section.text)]
        if section.claims:
            blocks.append(self.claims([("", claim) for claim in section.claims], linked=False))
        blocks += [self.table(table) for table in section.tables]
        return blocks + [self._figure(figure) for figure in section.figures]

    def claims(self, claims: Sequence[tuple[str, Claim]], *, linked: bool) -> str:
        head = ["verdict", "claim", "source", "evidence"] + ["section"] * linked
        rows = []
        for target, claim in claims:
            kind, mark = MARKS[claim.verdict]
            cells = [f'<span class="{kind}">{mark} {claim.verdict}</span>']
            cells += [self._inline(t) for t in (claim.statement, claim.source, claim.evidence)]
            if linked:
                cells.append(f'<a href="#{escape(target, quote=True)}">{escape(target)}</a>')
            rows.append(_row(cells))
        return _table("", [escape(name) for name in head], rows, prose=True)

    def facts(self, facts: Sequence[tuple[str, str]]) -> str:
        rows = [_row([escape(name), escape(value)]) for name, value in facts]
        return _table("", [], rows, prose=True)

    def table(self, table: Table) -> str:
        rows = []
        for number, row in enumerate(table.rows):
            padded = [*row, *[""] * (len(table.header) - len(row))]
            strong = ' class="strong"' if number in table.emphasis else ""
            rows.append(_row([self._inline(cell) for cell in padded], strong))
        words = any(len(cell) > 60 for row in table.rows for cell in row)
        head = [self._inline(name) for name in table.header]
        note = f'<p class="note">{self._inline(table.note)}</p>' if table.note else ""
        return _table(self._inline(table.title), head, rows, prose=words) + note

    def _figure(self, figure: Figure) -> str:
        data = base64.b64encode(self._images[figure.name]).decode()
        return (
            f'<figure><img alt="{escape(figure.caption, quote=True)}" '
            f'src="data:image/png;base64,{data}">'
            f"<figcaption>{self._inline(figure.caption)}</figcaption></figure>"
        )

    def _inline(self, text: str) -> str:
        html: str = self._markdown.renderInline(text)
        return html


def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # HTML in a text is shown, not obeyed; images would be loaded from elsewhere.
    return MarkdownIt("commonmark", {"html": False}).disable("image")


def _row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _table(caption: str, head: Sequence[str], rows: Sequence[str], *, prose: bool) -> str:
    title = f"<caption>{caption}</caption>" if caption else ""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    header = f"<thead><tr>{names}</tr></thead>" if head else ""
    kind = ' class="prose"' if prose else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table{kind}>{title}{header}<tbody>\n{body}\n</tbody></table></div>'
    )
