"""Files written in one step: whoever reads sees the old content or the new, never a half of it.

What lies on disk may have been changed by anybody. What this module reads is JSON, of a bounded
depth, and a file's digest says whether it is still what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place when the block ends without error.

    The folder is made where needed. What was written is on the disk before the name changes hands.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "numbers.txt"
        ...     with replacing(target) as file:
        ...         _ = file.write_text("1 2 3")
        ...     target.read_text()
        '1 2 3'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path) as file:
        yield file
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(file, path)


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody else uses; what is left there at the end is removed."""
    # Not mkstemp: its files are the owner's alone, and most of what is written is to be shared.
    file = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)  # replaced already, where all went well


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` to ``path`` in one step, making its folder where needed."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes ``data`` as strict JSON (no NaN) to ``path`` in one step."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON data of a file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON text, or nested beyond any sense.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be read") from None
    except ValueError as error:  # of the text's encoding, or of JSON
        raise ValueError(f"{path} is not JSON: {error}") from None


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def fingerprint(known: Any) -> str:
    """SHA-256 of JSON data, as 64 hexadecimal digits: equal data, whatever the order of keys.

    Example:
        >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
