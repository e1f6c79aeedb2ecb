"""Files written in one step: whoever reads sees the old content or the new, never a half of it.

What lies on disk may have been changed by anybody. What this module reads is JSON, of a bounded
depth, and a file's digest says whether it is still what was written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_SEAL, _TAIL = "sha256", b"\nsha256:"
_SAMPLES, _SAMPLE = 16, 1 << 12


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


@contextlib.contextmanager
def telling_full_disk(doing: str, hint: str = "nothing that was there is lost") -> Iterator[None]:
    """Says what was done when the disk, a quota or the largest size of a file ran out.

    Args:
        doing: what is done in the block, such as ``"converting into logs/"``.
        hint: what becomes of it.

    Raises:
        OSError: with the same number and that text.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        text = f"the disk is full while {doing}; free some space and run again: {hint}"
        raise OSError(error.errno, text) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes ``text`` to ``path`` in one step, making its folder where needed."""
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes ``data`` to ``path`` in one step, making its folder where needed."""
    with replacing(path) as file:
        file.write_bytes(data)


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


def sampled_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a small file's content, or of some blocks of a large one and its size.

    Up to a megabyte every byte counts. Beyond, sixteen blocks of 4 KiB do, evenly spread from the
    first byte to the last: files that were cut, swapped or written anew are told apart at a cost
    that does not grow; single bytes that changed in between take :func:`digest`.
    """
    size = os.stat(path).st_size
    if size <= _BLOCK:
        return digest(path)
    sha = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
            sha.update(file.read(_SAMPLE))
    return sha.hexdigest()


def fingerprint(known: Any) -> str:
    """SHA-256 of JSON data, as 64 hexadecimal digits: equal data, whatever the order of keys.

    Example:
        >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def write_sealed_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Writes an object of JSON data with its own fingerprint, in one step."""
    plain = json.loads(json.dumps(data, allow_nan=False))  # as it will be read: keys are texts
    write_json(path, {**plain, _SEAL: fingerprint(plain)})


def read_sealed_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`write_sealed_json` wrote; without a seal (older releases had none) as it is.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not an object of JSON data, or not the one that was sealed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "run.json"
        ...     write_sealed_json(path, {"lift": 1.25})
        ...     before = read_sealed_json(path)
        ...     _ = path.write_text(path.read_text().replace("1.25", "1.75"))
        ...     read_sealed_json(path)
        Traceback (most recent call last):
            ...
        ValueError: ...run.json is damaged: its content is not what was written there
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: expected an object, found {type(data).__name__}")
    if _SEAL in data and data.pop(_SEAL) != fingerprint(data):
        raise ValueError(f"{path} is damaged: its content is not what was written there")
    return data


def seal(path: str | os.PathLike[str]) -> None:
    """Appends a file's digest to it.

    For formats that are found from their end on, such as zip, which ``torch.save`` writes: they
    bear what follows them.
    """
    sha = digest(path)
    with open(path, "ab") as file:
        file.write(_TAIL + sha.encode())


def check_seal(path: str | os.PathLike[str]) -> None:
    """Raises ``ValueError`` unless the file ends with the :func:`seal` of what stands before it."""
    tail = len(_TAIL) + 64
    with open(path, "rb") as file:
        left = max(0, file.seek(0, os.SEEK_END) - tail)
        file.seek(left)
        end = file.read()
        if not end.startswith(_TAIL):
            raise ValueError("it was cut short, changed, or written by an older release")
        file.seek(0)
        sha = hashlib.sha256()
        while left:
            block = file.read(min(left, _BLOCK))
            sha.update(block)
            left -= len(block)
    if end.removeprefix(_TAIL) != sha.hexdigest().encode():
        raise ValueError("its content is not what was written there")
