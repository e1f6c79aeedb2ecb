"""What README and pages hold: their fenced blocks, what stands before these, their commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
_SETUP = re.compile(r"^<!-- setup: [^\n]*\n(.*?)^-->$", re.M | re.S)
_SKIP = re.compile(r"<!-- run: no, [^>]*-->\s*\Z")
_SPAN = re.compile(r"`(drpo [^`]+)`")


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        language: as the fence says it.
        code: the text.
        line: of the page, where the code begins.
        setup: code that the page hides before it, in a comment ``<!-- setup: ... -->``.
        runs: unless a comment ``<!-- run: no, WHY -->`` stands right before it.
    """

    language: str
    code: str
    line: int
    setup: str
    runs: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[Block]:
    text, at, found = page.read_text(encoding="utf-8"), 0, []
    for fence in _FENCE.finditer(text):
        before = text[at : fence.start()]
        at = fence.end()
        if fence[1] in languages:
            setup = "\n".join(_SETUP.findall(before))
            line = text.count("\n", 0, fence.start(2)) + 1
            found.append(Block(fence[1], fence[2], line, setup, not _SKIP.search(before)))
    return found


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind ``drpo`` of every command in a page's shell blocks."""
    for block in blocks(page, "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((i for i, word in enumerate(words) if word in ("|", "&&")), len(words))
                one, words = words[:end], words[end + 1 :]
                if one[:1] == ["drpo"]:
                    yield one[1:]
                elif "torchrl_drpo.cli" in one:
                    yield one[one.index("torchrl_drpo.cli") + 1 :]


def mentions(page: Path) -> Iterator[list[str]]:
    """The words behind ``drpo`` of every command that is named within a text, whole or not."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in _SPAN.findall(text):
        yield shlex.split(span)[1:]
