"""A module of a user's own, in the current folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def own_module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that lies in a folder, now the current one; forgotten afterwards."""
    name = f"own_{folder.name}"
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    yield name
    sys.modules.pop(name, None)
