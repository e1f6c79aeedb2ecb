"""The public names: all there, the same for people and for type checkers, and cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchrl_drpo


@pytest.mark.parametrize("name", torchrl_drpo.__all__)
def test_every_public_name_imports_and_is_documented(name):
    value = getattr(torchrl_drpo, name)
    assert value.__doc__
    assert value.__doc__.strip()
    assert value.__name__ == name


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(torchrl_drpo.__file__).read_text())
    guarded = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    seen = {alias.asname for node in guarded.body for alias in node.names}
    assert seen == set(torchrl_drpo.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'DROPLoss'"):
        torchrl_drpo.DROPLoss  # noqa: B018


def test_importing_the_package_imports_neither_torchrl_nor_extras():
    code = (
        "import sys, torchrl_drpo, torchrl_drpo.cli; "
        "heavy = {'torch', 'torchrl', 'pyarrow', 'matplotlib', 'tyro', 'rich', 'pandas'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_losses_need_no_extra():
    code = (
        "import sys; from torchrl_drpo import DRPOLoss, RecReplayBuffer, RecSimEnv; "
        "extras = {'pyarrow', 'matplotlib', 'tyro', 'rich', 'pandas', 'safetensors'}; "
        "print(sorted(extras & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
