"""Pages of what lies elsewhere in the repository: included files, figures, links.

A page takes a file in with a comment of its own line::

    <!-- include: results/reward_model/coat.md -->

Its first heading is left out, for the page has one; the others go one level down where a heading
stands above it, and its links go where they went. Links from
pages to files outside of ``docs`` work as they stand where the repository is read; on the site they
lead to the page that includes the file, or to a copy of a figure or of numbers. What a page says to
the tests of its code (``<!-- setup: ... -->``, ``<!-- run: no, ... -->``) stays behind.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: What may be linked to and is no page: copied to the site below this folder.
COPIES, COPIED = "files", (".png", ".json", ".ipynb")
#: Pages of files that none includes.
PAGES = {"README.md": "index.md"}

_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.M)
_HIDDEN = re.compile(r"^<!-- (?:setup|run): .*?-->\n", re.M | re.S)
_FENCE = re.compile(r"^(```+|~~~+).*?^\1[ \t]*$", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def outside_of_fences(text: str, change: Callable[[str], str]) -> str:
    """Changes a Markdown text, its fenced blocks left as they are."""
    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[at : fence.start()]), fence.group()]
        at = fence.end()
    return "".join([*parts, change(text[at:])])


def pages_of_files(docs: Path) -> dict[str, str]:
    """Files of the repository, and folders that they lie in, by the page that includes them."""
    found = dict(PAGES)
    for page in sorted(docs.rglob("*.md")):
        for path in _INCLUDE.findall(page.read_text(encoding="utf-8")):
            name = page.relative_to(docs).as_posix()
            found[path] = name
            found.setdefault(posixpath.dirname(path), name)
    return found


def on_files(files: Files, config: Any) -> Files:
    """Adds figures and numbers of the repository to the site."""
    for folder in ("results", "tutorials"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in COPIED:
                name = f"{COPIES}/{path.relative_to(ROOT).as_posix()}"
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Takes files in, and leads links to where they go on the site."""
    markdown = _HIDDEN.sub("", markdown)
    known = pages_of_files(Path(config.docs_dir))
    here = page.file.src_uri
    base = posixpath.dirname(here)
    own = _relinked(markdown, base if base == "tutorials" else f"docs/{base}", here, known)

    def included(found: re.Match[str]) -> str:
        above = re.findall(r"^(#+) ", own[: found.start()], re.M)
        return _included(found[1], "#" * (len(above[-1]) - 1), here, known)

    return _INCLUDE.sub(included, own)


def _included(path: str, deeper: str, here: str, known: dict[str, str]) -> str:
    """A file's text, without its first heading, as it reads on a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    text = re.sub(r"\A\s*# .*\n", "", text)
    text = outside_of_fences(text, lambda part: re.sub(r"^(?=#+ )", deeper, part, flags=re.M))
    return _relinked(text, posixpath.dirname(path), here, known)


def _relinked(text: str, base: str, here: str, known: dict[str, str]) -> str:
    def link(found: re.Match[str]) -> str:
        return found[1] + _target(found[2], base, here, known) + found[3]

    return outside_of_fences(text, lambda part: _LINK.sub(link, part))


def _target(target: str, base: str, here: str, known: dict[str, str]) -> str:
    """Where a link of a text that lies in the folder ``base`` goes, seen from the page ``here``."""
    if target.startswith("#") or ":" in target:
        return target
    path, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(base, path))
    if path.startswith("docs/"):
        to = path.removeprefix("docs/")
    elif path.endswith(".ipynb") and not here.startswith("tutorials/"):
        to = path.replace(".ipynb", ".md")  # its page
    elif path in known:
        to = known[path]
    elif path.endswith(COPIED):
        to = f"{COPIES}/{path}"
    else:
        return target  # and the strict build says that there is no such page
    return posixpath.relpath(to, posixpath.dirname(here) or ".") + mark + anchor
