"""What ``drpo tokenize`` says of codes: a table of their levels, collisions, what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torchrl_drpo.pipeline.terminal import say, show
from torchrl_drpo.report.tables import Table
from torchrl_drpo.tokenization import CodeQuality
from torchrl_drpo.tokenization.purity import Purity
from torchrl_drpo.tokenization.quality import LevelQuality

#: Columns of the table, what each shows of a level, and what a reader must know of it.
_COLUMNS: tuple[tuple[str, Callable[[LevelQuality], str], str], ...] = (
    ("codes", lambda level: f"{level.used:,}", ""),
    ("perplexity", lambda level: f"{level.perplexity:,.1f}", ""),
    ("prefixes", lambda level: f"{level.prefixes:,}", "prefixes: different codes up to here"),
    ("largest", lambda level: f"{level.largest:.2%}", "largest: share of items on one of them"),
    (
        "within",
        lambda level: "" if level.spread is None else f"{level.spread:.3f}",
        "within: share of the vectors' variance inside prefixes",
    ),
    (
        "neighbours (chance)",
        lambda level: _share(level.neighbours),
        "neighbours: nearest items that share the codes up to here",
    ),
    (
        "together (chance)",
        lambda level: _share(level.together),
        "together: items that a user had one after the other that do",
    ),
)


def show_codes(quality: CodeQuality, facts: Mapping[str, Any]) -> None:
    """Prints a report.

    Args:
        quality: of the codes.
        facts: what else there is to tell, as ``drpo tokenize --json`` has it.
    """
    show(_table(quality, facts.get("quantisation_error", ())))
    if facts.get("without_vector"):
        say(
            f"{facts['without_vector']:,} items have no vector: their codes are drawn at random "
            "and say nothing"
        )
    if quality.without:
        say(f"{quality.without:,} items have no codes and are left out of this report")
    found = quality.collisions
    say(
        f"collisions: {found.colliding:,} items share all their codes with another "
        f"({found.leaves:,} leaves, {found.unique_share:.2%} of the items alone on theirs, at most "
        f"{found.largest} on one)"
    )
    if len(quality.levels) > 1 and quality.levels[0].prefixes == quality.items > 1:
        say(
            f"the first level alone tells all {quality.items:,} items apart: no two share "
            "anything, and the levels behind it say nothing; ask for fewer --codes "
            f"({_enough(quality)} a level would do)"
        )
    if quality.lost is not None:
        say(
            f"expected hits lost to them: {quality.lost.one_a_leaf:.3%} if a leaf gives its most "
            f"popular item, {quality.lost.at_random:.3%} if any of its items; all of them listed "
            f"by popularity, the right one comes {quality.lost.places:.4f} places late on average"
        )
    if "output" in facts:
        say(f"written: {facts['output']}; in the schema put")
        say(json.dumps({"items": facts["schema_items"]}))


def _enough(quality: CodeQuality) -> int:
    """The fewest codes of which so many levels have a path for each item."""
    codes = 2
    while codes ** len(quality.levels) < quality.items:
        codes += 1
    return codes


def _table(quality: CodeQuality, error: Any) -> Table:
    shown = [
        (name, [cell(level) for level in quality.levels], note) for name, cell, note in _COLUMNS
    ]
    if error:
        cells = [f"{value:.3f}" for value in error] + [""] * (len(quality.levels) - len(error))
        shown.insert(5, ("error", cells, "error: what the codes' centroids leave of the variance"))
    shown = [column for column in shown if any(column[1])]
    rows = [
        [str(number), *(cells[number] for _, cells, _ in shown)]
        for number in range(len(quality.levels))
    ]
    return Table(
        f"Codes of {quality.items:,} items",
        ["level", *(name for name, _, _ in shown)],
        rows,
        note="; ".join(note for _, _, note in shown if note),
    )


def _share(found: Purity | None) -> str:
    return "" if found is None or found.pairs == 0 else f"{found.share:.1%} ({found.chance:.1%})"
