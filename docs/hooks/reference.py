"""The reference's pages: every public name of a module, from its docstring.

A page names modules in comments of their own lines; each stands for all names in the module's
``__all__``, read without importing anything::

    <!-- names: torchrl_drpo.objectives -->

A few of them, in an order of the page's own, are named behind the module. ``<!-- top names -->``
stands for links to all that the package itself offers.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_TOP = re.compile(r"^<!-- top names -->$", re.M)
_NAMES = re.compile(r"^<!-- names: (\S+)((?: \w+)*) -->$", re.M)


def public_names(module: str) -> list[str]:
    """The names in a module's ``__all__``, or those that its lazy table brings."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:  # made of a table: what type checkers see is the same
                break
    return sorted(
        {
            alias.asname
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname
        }
    )


def named(markdown: str) -> list[str]:
    """All names that a page of the reference explains, as ``module.name``."""
    return [
        f"{module}.{name}"
        for module, listed in _NAMES.findall(markdown)
        for name in listed.split() or public_names(module)
    ]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts a directive for each name, and links to those at the top, in place of the comments."""
    links = (f"[`{name}`][torchrl_drpo.{name}]" for name in public_names("torchrl_drpo"))
    markdown = _TOP.sub(", ".join(links) + ".", markdown)
    return _NAMES.sub(
        lambda found: "\n\n".join(f"::: {name}" for name in named(found.group())), markdown
    )


def _file(module: str) -> Path:
    place = Path(*module.split("."))
    for folder in (ROOT, ROOT / "kernels"):
        for path in (folder / place / "__init__.py", folder / place.with_suffix(".py")):
            if path.is_file():
                return path
    raise ValueError(f"the reference names {module!r}, which is no module of this repository")
