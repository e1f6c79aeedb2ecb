"""The report as one HTML file: figures inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from torchrl_drpo.report.html import html_facts, html_page, html_row, html_table, table_of
from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.document.parts import Claim, Section
from torchrl_drpo.reproduction.document.report import BANNER, Part, Report, duration

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

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
    return html_page("Reproduction report", body)


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
            rows.append(html_row(cells))
        return table_of("", [escape(name) for name in head], rows, prose=True)

    def facts(self, facts: Sequence[tuple[str, str]]) -> str:
        return html_facts(facts, escape)

    def table(self, table: Table) -> str:
        return html_table(table, self._inline)

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
