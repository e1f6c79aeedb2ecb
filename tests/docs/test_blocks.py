"""Every Python block and every command of README and pages is well formed, and blocks run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest
import torch

from tests.docs.reading import PAGES, ROOT, blocks, commands, mentions, name_of
from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.options import parse
from torchrl_drpo.data import LogSchema
from torchrl_drpo.files import write_json

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if any(commands(page)) or any(mentions(page))]


def config_of(command: str) -> type:
    module, name = COMMANDS[command].config.split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_compiles_and_what_it_imports_of_this_package_is_there(page):
    for block in blocks(page, "python"):
        code = "\n" * (block.line - 1) + block.code
        for node in ast.walk(compile(code, str(page), "exec", ast.PyCF_ONLY_AST)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchrl_drpo"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"line {node.lineno}: {alias.name}"


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_parse_with_their_own_options(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "exists", _inputs_exist)
    for path in ("runs/first/results.json", "runs/tune/choice.json"):  # as earlier runs left them
        write_json(tmp_path / path, {"logs": "log.parquet", "preset": "kuairand"})
    for words in commands(page):
        if words[0].startswith("-") or "--help" in words:
            continue
        name, *options = words
        parse(config_of(name), options, prog=f"drpo {name}")


def _inputs_exist(path: Path) -> bool:
    """Of the files that commands look for before they run: inputs are there, outputs are not."""
    return path.suffix == ".parquet" and path.name.startswith("log")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_named_in_a_text_exist_with_the_options_that_are_named(page):
    for name, *rest in mentions(page):
        if name.startswith("-") or name == "COMMAND":
            continue
        assert name in COMMANDS, name
        known = flags_of(name)
        given = [word.partition("=")[0] for word in rest if word.startswith("--")]
        assert set(given) <= known, f"{name}: {set(given) - known}"


def flags_of(command: str) -> set[str]:
    """The options of a command, as its own help lists them."""
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", _help(command)))


def _help(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        parse(config_of(command), ["--help"], prog=f"drpo {command}")
    return said.getvalue()


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _movielens(tmp_path / "ml-latest-small")
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.runs:
            exec(compile(block.setup, f"{page} (set-up)", "exec"), names)
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), names)


def _movielens(folder: Path) -> None:
    """Files of MovieLens' small form, generated: 60 users who like every third film best."""
    folder.mkdir()
    rows = [
        f"{user},{film},{5 if film % 3 == 0 else 1 + (film + user) % 4},{1_000 * place + user}"
        for user in range(1, 61)
        for place, film in enumerate(range(user % 7 + 1, 121, 1 + user % 3))
    ]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows))
    titles = "\n".join(f'{film},"Film, {film}",Drama' for film in range(1, 121))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + titles)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=name_of)
def test_schemas_are_schemas(page):
    for block in blocks(page, "json"):
        LogSchema.from_json(block.code)


def test_every_quality_of_the_page_on_logs_is_one():
    text = (ROOT / "docs" / "own_log.md").read_text()
    found = [f'"quality": {each}' for each in re.findall(r'`(\{"kind": .*?\})`[:|, ]', text)]
    assert len(found) >= 5
    for quality in found:
        LogSchema.from_json(
            f'{{"version": 1, "item": "i", "user": "user", "time": "t", {quality}}}'
        )
