"""What importing a part of the data package costs; its names are the same for everybody."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchrl_drpo.data

HEAVY = "torch torchrl tensordict numpy pyarrow pandas"


@pytest.mark.parametrize(
    ("code", "spared"),
    [
        ("from torchrl_drpo.data import LogSchema; LogSchema.preset('kuairand')", HEAVY),
        ("from torchrl_drpo.data.schema import LogSchema, Percentile, ItemTable", HEAVY),
        ("from torchrl_drpo.data.schema.formula import Formula; Formula('a + 1')", HEAVY),
        ("from torchrl_drpo.data import LogError", "torchrl pyarrow"),
        ("from torchrl_drpo.data import RecReplayBuffer", "pyarrow pandas polars"),
    ],
)
def test_a_part_imports_only_what_it_needs(code, spared):
    code = f"{code}; import sys; print(sorted({set(spared.split())!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", torchrl_drpo.data.__all__)
def test_every_name_of_the_package_imports_and_is_documented(name):
    assert getattr(torchrl_drpo.data, name).__name__ == name
    assert getattr(torchrl_drpo.data, name).__doc__.strip()
    assert name in dir(torchrl_drpo.data)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(torchrl_drpo.data.__file__).read_text())
    guarded = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    assert sorted(alias.asname for node in guarded.body for alias in node.names) == (
        torchrl_drpo.data.__all__
    )


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'LogScheme'"):
        torchrl_drpo.data.LogScheme  # noqa: B018


def test_the_named_logs_come_with_the_buffer():
    code = (
        "from torchrl_drpo.data import RecReplayBuffer; "
        "from torchrl.data.datasets import load_dataset; "
        "print(len(load_dataset('rec:recsim-medium', rows=9, propensity=False)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "9"
