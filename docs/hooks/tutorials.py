"""Tutorials as pages: each executed notebook with its outputs, as it lies in the repository."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
_ANSI = re.compile(r"\x1b\[[\d;]*m")


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each notebook, and the figures that it drew."""
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        text, figures = as_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, figure in figures.items():
            files.append(File.generated(config, f"files/tutorials/{name}", content=figure))
    return files


def as_page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook's Markdown, and its figures by their names.

    Args:
        notebook: as its file holds it.
        name: of the file, without its ending; figures are called so, and by their number.
    """
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for kind, shown in _outputs(cell):
            if kind == "image/png":
                called = f"{name}-{len(figures) + 1}.png"
                figures[called] = base64.b64decode(shown)
                parts.append(f"![Figure {len(figures)}]({called})")
            elif text := _ANSI.sub("", shown).strip():
                parts.append(f"```text\n{text}\n```")
        if len(parts) == 2:  # the first cell stands behind the title and what it promises
            parts.append(f"*The notebook: [`tutorials/{name}.ipynb`]({name}.ipynb).*")
    return "\n\n".join(parts) + "\n", figures


def _outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a cell has shown, as its kind and its text (base64 of a figure)."""
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        kind = "image/png" if "image/png" in data else "text/plain"
        yield kind, "".join(data.get(kind, ""))
