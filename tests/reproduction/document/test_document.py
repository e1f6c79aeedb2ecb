"""The report of claims: counts, Markdown and HTML, read back by parsers that are not ours."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.document.html import MARKS, to_html
from torchrl_drpo.reproduction.document.markdown import to_markdown
from torchrl_drpo.reproduction.document.parts import VERDICTS, Claim, Section
from torchrl_drpo.reproduction.document.report import Part, Report, duration, plain

NASTY = "KeyError: '__init__' of <b>Worlds</b> & *co* [x](y) `z` $1 ~~a~~ | b"
#: A parser of GitHub's Markdown, tables and strikethrough included.
GITHUB = MarkdownIt("gfm-like", {"linkify": False})
PNG = b"\x89PNG not really"


def make_section(**over: object) -> Section:
    given: dict[str, object] = {
        "title": "Noise *injection*",
        "text": "What was **done**.\n\n* one\n* two",
        "tables": [
            Table("Rewards", ["method", "mean"], [["BC | clone", "1"], ["DRPO", "2"]], [1], "note")
        ],
        "figures": [Figure("curves", 'a "caption"', lambda canvas: None)],
        "claims": [
            Claim("it holds", "table 1", "held", "1 | 2"),
            Claim("it does not", "table 2", "not held", "p < .05\nand more"),
        ],
    }
    return Section(**{**given, **over})


@pytest.fixture
def report() -> Report:
    parts = [
        Part("noise", 3, 61.0, make_section(), processor_seconds=40.0),
        Part("table1", 20, 0.0, None, f"1 of 20 cells are not there: BPPO ({NASTY})"),
    ]
    return Report(parts, [("processor", "Some(R)_CPU_ <1>"), ("torch", "2.13")])


# -- what it says -------------------------------------------------------------------------------


def test_verdicts_are_counted_in_words(report: Report):
    assert report.verdicts() == "1 held, 1 not held"
    every = [Claim("c", "s", verdict, "e") for verdict in VERDICTS for _ in range(2)]
    one = Report([Part("a", 1, 0.0, make_section(claims=every))], [])
    assert one.verdicts() == "2 held, 2 held in part, 2 not held, 2 not tested"
    assert Report([], []).verdicts() == "no claims"
    with pytest.raises(ValueError, match="got 'proved'"):
        Claim("c", "s", "proved", "e")


def test_json_has_every_claim_with_its_target(report: Report):
    found = report.to_json()
    assert found["quick"] is False
    assert found["facts"] == {"processor": "Some(R)_CPU_ <1>", "torch": "2.13"}
    assert found["targets"]["noise"] == {"seconds": 61.0, "state": "run"}
    assert found["targets"]["table1"]["state"].endswith(f"BPPO ({NASTY})")
    assert [(c["target"], c["verdict"]) for c in found["claims"]] == [
        ("noise", "held"),
        ("noise", "not held"),
    ]
    assert found["claims"][1]["evidence"] == "p < .05\nand more"


def test_the_work_is_summed(report: Report):
    rows = report.work().rows
    assert [row[:4] for row in rows] == [
        ["[noise](#noise)", "3", "1 min 01 s", "40 s"],
        ["[table1](#table1)", "20", "0 s", "0 s"],
        ["all", "23", "1 min 01 s", "40 s"],
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.5, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


# -- Markdown -----------------------------------------------------------------------------------


def text_of(markdown: str) -> str:
    """What a reader sees of an inline text."""
    (inline,) = (t for t in GITHUB.parse(markdown) if t.type == "inline")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    return "".join(child.content for child in inline.children)


def test_plain_text_is_shown_as_it_is():
    assert text_of(plain(NASTY)) == NASTY
    assert plain("two\n  lines") == "two lines"
    assert text_of(plain("# no heading\n# at all")[2:]) == "no heading # at all"


def tables_of(markdown: str) -> list[list[list[str]]]:
    """Tables of a document: rows of cells, by a parser of GitHub's Markdown."""
    tables: list[list[list[str]]] = []
    inside = False
    for token in GITHUB.parse(markdown):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            inside = True
        elif token.type == "inline" and inside:
            tables[-1][-1].append("".join(c.content for c in token.children))
            inside = False
    return tables


def test_markdown_tables_survive_pipes_and_line_breaks(report: Report):
    markdown = to_markdown(report)
    claims, facts, work, rewards = tables_of(markdown)
    assert claims[0] == ["verdict", "claim", "source", "evidence", "section"]
    assert claims[1] == ["held", "it holds", "table 1", "1 | 2", "noise"]
    assert claims[2][3] == "p < .05 and more"
    assert facts[1:] == [["processor", "Some(R)_CPU_ <1>"], ["torch", "2.13"]]
    assert work[2][4] == f"not run: 1 of 20 cells are not there: BPPO ({NASTY})"
    assert rewards == [["method", "mean"], ["BC | clone", "1"], ["DRPO", "2"]]
    assert "| **DRPO** | **2** |" in markdown


def test_markdown_has_its_figures_beside_it_and_says_what_was_not_run(report: Report):
    markdown = to_markdown(report)
    assert "![curves](figures/curves.png)" in markdown
    assert '<a id="noise"></a>\n\n## Noise *injection*' in markdown
    assert "`drpo reproduce noise`: 3 cells, 1 min 01 s." in markdown
    assert f"## table1\n\nNot run: {plain(report.parts[1].problem)}." in markdown
    untitled = make_section(tables=[Table("", ["a"], [])])
    assert "****" not in to_markdown(Report([Part("a", 1, 0.0, untitled)], []))


def test_a_quick_report_says_so_first(report: Report):
    quick = Report(report.parts, report.facts, quick=True)
    assert to_markdown(quick).splitlines()[2].startswith("> **QUICK RUN")
    assert 'role="alert">Quick run' in to_html(quick, {"curves": PNG})
    assert quick.to_json()["quick"] is True
    for text in (to_markdown(report), to_html(report, {"curves": PNG})):
        assert "quick run" not in text.lower()


# -- HTML ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags that are not closed, references, ids and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"a script in {name}"
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


def test_html_is_one_file_that_loads_nothing(report: Report):
    html = to_html(report, {"curves": PNG})
    page = Page(html)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert "url(" not in html
    assert "@import" not in html
    image = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert [r for r in page.references if not r.startswith("#")] == [image]
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    assert page.ids == ["noise", "table1"]


def test_html_shows_texts_as_markdown_and_errors_as_they_are(report: Report):
    html = to_html(report, {"curves": PNG})
    text = "".join(Page(html).texts)
    assert f"Not run: {report.parts[1].problem}." in text  # upper case and all
    assert f"not run: {report.parts[1].problem}" in text  # in the table of targets
    assert "<em>injection</em>" in html
    assert "<strong>done</strong>" in html
    assert "<li>one</li>" in html
    assert 'alt="a &quot;caption&quot;"' in html
    assert '<tr class="strong"><td>DRPO</td><td>2</td></tr>' in html


def test_texts_can_neither_run_nor_load_anything():
    evil = (
        "<script>alert(1)</script> <img src=https://example.org/a.png onerror=alert(1)> "
        "![b](https://example.org/b.png) [c](javascript:alert(1))"
    )
    section = make_section(
        title=evil,
        text=evil,
        tables=[Table(evil, [evil], [[evil]], note=evil)],
        figures=[Figure("curves", evil, lambda canvas: None)],
        claims=[Claim(evil, evil, "held", evil)],
    )
    page = Page(to_html(Report([Part("a", 1, 0.0, section)], [(evil, evil)]), {"curves": PNG}))
    assert page.open == []
    assert "script" not in page.tags
    loaded = [r for r in page.references if not r.startswith(("#", "data:image/png"))]
    assert set(loaded) <= {"https://example.org/b.png"}  # a link that a reader may follow
    assert not re.search("javascript:", " ".join(page.references))


def test_every_verdict_has_a_mark_and_a_class_of_the_style():
    assert set(MARKS) == set(VERDICTS)
    claims = [Claim("c", "s", verdict, "e") for verdict in VERDICTS]
    html = to_html(Report([Part("a", 1, 0.0, make_section(claims=claims))], []), {"curves": PNG})
    for verdict, (kind, mark) in MARKS.items():
        assert f'<span class="{kind}">{mark} {verdict}</span>' in html
        assert f".{kind} {{" in html
