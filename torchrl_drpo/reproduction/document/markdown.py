"""The report in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.document.parts import Claim
from torchrl_drpo.reproduction.document.report import BANNER, Part, Report, duration, plain


def to_markdown(report: Report) -> str:
    """The report as one text, with its figures in ``figures/`` beside it."""
    blocks = ["# Reproduction report"]
    if report.quick:
        blocks.append(f"> **{BANNER.upper()}**")
    blocks += ["## Claims", f"{report.verdicts().capitalize()}."]
    if report.claims:
        blocks.append(_markdown_table(_claims_table(report.claims)))
    facts = Table("", ["", "value"], [[plain(n), plain(value)] for n, value in report.facts])
    blocks += ["## What was run", _markdown_table(facts), *_titled(report.work())]
    for part in report.parts:
        blocks += _markdown_part(part)
    return "\n\n".join(blocks) + "\n"


def _claims_table(claims: Sequence[tuple[str, Claim]]) -> Table:
    rows = [
        [f"**{c.verdict}**", c.statement, c.source, c.evidence, f"[{target}](#{target})"]
        for target, c in claims
    ]
    return Table("", ["verdict", "claim", "source", "evidence", "section"], rows)


def _markdown_part(part: Part) -> list[str]:
    anchor = f'<a id="{part.name}"></a>'
    section = part.section
    if section is None:
        return [anchor, f"## {part.name}", f"Not run: {plain(part.problem)}."]
    blocks = [anchor, f"## {section.title}", section.text]
    blocks.append(f"`drpo reproduce {part.name}`: {part.cells} cells, {duration(part.seconds)}.")
    for table in section.tables:
        blocks += _titled(table)
    for figure in section.figures:
        blocks += [f"![{figure.name}](figures/{figure.name}.png)", figure.caption]
    return blocks


def _titled(table: Table) -> list[str]:
    blocks = [f"**{table.title}**"] if table.title else []
    blocks.append(_markdown_table(table))
    return [*blocks, table.note] if table.note else blocks


def _markdown_table(table: Table) -> str:
    words = any(len(cell) > 60 for row in table.rows for cell in row)
    header, *rows = ([_cell(text) for text in row] for row in (table.header, *table.rows))
    text = replace(table, header=header, rows=rows).to_raw_markdown()
    # Numbers stand to the right, sentences do not.
    return text.replace("--:|", ":--|") if words else text


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
