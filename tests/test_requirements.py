"""What the package imports is what its install brings: a gate that installs more cannot tell."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
#: Modules that bear another name than what is installed, and ours.
CALLED = {"PIL": "pillow", "markdown_it": "markdown-it-py", "faiss": "faiss-cpu", "yaml": "pyyaml"}
OURS = {"torchrl_drpo", "torchrl_drpo_kernels"}
#: Offered where a user has them: their absence is caught, and said by name.
WHERE_PRESENT = {"pandas", "polars", "datasets", "fsspec", "py4j", "hydra"}
#: Extras of the developers, which no user has.
DEVELOPERS = {"test", "docs", "dev"}


def imported(folder: Path) -> dict[str, Path]:
    """Third-party modules, and a file that imports each, at its top or within a function."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], path)
    outside = OURS | set(sys.stdlib_module_names) | {"__future__"}
    return {name: path for name, path in found.items() if name not in outside}


def test_what_the_package_imports_is_brought_by_an_extra_of_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = list(project["dependencies"])
    for name, wanted in extras.items():
        required += [] if name in DEVELOPERS else wanted
    names = {re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in required}
    modules = imported(ROOT / "torchrl_drpo") | imported(ROOT / "kernels")
    missing = {
        name: str(path.relative_to(ROOT))
        for name, path in modules.items()
        if CALLED.get(name, name) not in names | WHERE_PRESENT
    }
    assert not missing
