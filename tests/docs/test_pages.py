"""Pages say what there is: every public name, every option, one decision table, living links."""

from __future__ import annotations

import importlib.util
import re

import pytest

import torchrl_drpo
from tests.docs.hooks import hook
from tests.docs.reading import PAGES, ROOT, blocks, name_of
from tests.docs.test_blocks import config_of, flags_of
from torchrl_drpo.cli.commands import COMMANDS

#: What the site is made with, and not every checkout has.
sited = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mkdocs", "griffe")),
    reason="needs the extra [docs]",
)
#: Packages whose whole ``__all__`` is in the reference.
EXPLAINED = [
    "torchrl_drpo.data",
    "torchrl_drpo.distributions",
    "torchrl_drpo.envs",
    "torchrl_drpo.evaluation",
    "torchrl_drpo.evaluation.off_policy",
    "torchrl_drpo.functional",
    "torchrl_drpo.objectives",
    "torchrl_drpo.policies",
    "torchrl_drpo.rewards",
    "torchrl_drpo.tokenization",
    "torchrl_drpo_kernels",
]


@pytest.mark.parametrize("package", EXPLAINED)
def test_every_public_name_is_in_the_reference_once(package):
    listed = [
        name
        for page in sorted((ROOT / "docs/api").glob("*.md"))
        for name in hook("reference").named(page.read_text())
    ]
    names = importlib.import_module(package).__all__
    missing = {name for name in names if f"{package}.{name}" not in listed}
    assert not missing
    assert len(listed) == len(set(listed))


def test_names_at_the_top_are_those_that_the_package_offers():
    assert hook("reference").public_names("torchrl_drpo") == torchrl_drpo.__all__


@sited
@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_command_line_has_the_options_of_its_own_help(command):
    listed = {option.flag for option in hook("command_line").options_of(config_of(command))}
    assert {flag for flag in listed if flag.startswith("--")} == flags_of(command) - {"--help"}


@sited
def test_every_option_is_explained():
    for command in COMMANDS:
        for option in hook("command_line").options_of(config_of(command)):
            assert option.text.strip(), f"{command} {option.flag}"


def test_the_readme_decides_as_the_page_does():
    """One table in two places: the page's is the one to change."""
    tables = [
        re.search(r"^\| you have .*?(?=\n\n)", (ROOT / page).read_text(), re.M | re.S).group()
        for page in ("README.md", "docs/which_objective.md")
    ]
    assert tables[0] == tables[1]


def test_the_readme_and_the_page_show_one_pipeline():
    first = [blocks(ROOT / page, "python")[0].code for page in ("README.md", "docs/pipeline.md")]
    assert first[0] == first[1]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_of_the_repository(page):
    """As they are read there; what becomes of them on the site is the strict build's business."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@sited
@pytest.mark.parametrize(
    ("rest", "cells"),
    [
        ("ab    cd\n====  ===\na     1\nb b   2\n", ["| ab | cd |", "| :-- | :-- |", "| a | 1 |"]),
        ("a     1\n      more\n", ["|  |  |", "| :-- | :-- |", "| a | 1 more |"]),
    ],
    ids=["with a head", "without"],
)
def test_tables_of_docstrings_become_markdown(rest, cells):
    made = hook("docstrings").as_markdown(f"====  ===\n{rest}====  ===\n", None)
    assert made.splitlines()[: len(cells)] == cells


@sited
def test_notebooks_become_pages():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[1mbold\x1b[0m\n"]},
                {"output_type": "display_data", "data": {"image/png": "AQI=", "text/plain": "F"}},
            ],
        },
    ]
    text, figures = hook("tutorials").as_page({"cells": cells}, "01_name")
    assert "# Title\nText.\n\n```python\n1 + 1\n```\n\n```text\nbold\n```" in text
    assert "![Figure 1](01_name-1.png)" in text
    assert figures == {"01_name-1.png": b"\x01\x02"}


def test_links_of_the_readme_are_not_dead_in_a_distribution():
    setup = _setup()
    text = "![A](a.png)\n\nSee [b](docs/b.md), [c](https://c.org) and [d](#d).\n"
    assert setup(text, "") == "See b, [c](https://c.org) and [d](#d).\n"
    assert "![A](https://e.org/a.png)" in setup(text, "https://e.org/")
    shown = setup((ROOT / "README.md").read_text(), "")
    assert not re.findall(r"\]\((?!https?:|#)", re.sub(r"```.*?```", "", shown, flags=re.S))


def _setup():
    spec = importlib.util.spec_from_file_location("setup_of_drpo", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.for_an_index


def test_what_to_cite_is_this_version():
    for page in ("CITATION.cff", "docs/cite.md"):
        found = re.findall(r"^ *version\s*[:=]\s*\{?([\d.]+)", (ROOT / page).read_text(), re.M)
        assert found == [torchrl_drpo.__version__], page
