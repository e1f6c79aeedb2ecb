"""What a log's files hold, told by digests; a file that did not change is not read for it again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrl_drpo.files import digest

from .errors import LogError
from .formats import open_file

Stamp = tuple[int, int, int, int]
#: File systems count time in ticks of at most ten milliseconds: what is written later than this
#: after a file's last change bears a later time.
_TICK = 50_000_000


@dataclass(frozen=True)
class Input:
    """A file as it was found.

    Args:
        file: its name, without its folder.
        bytes: its size; -1 for a table in memory.
        sha256: digest of its content. Of a file behind a URI: of its size, head and tail, and of
            the ETag or the time that the store gives it.
        stamp: size, times of the last change of content and of anything (ns), and inode. While
            they are what they were, the content is. None where that is not certain.
    """

    file: str
    bytes: int
    sha256: str
    stamp: Stamp | None = None


def inputs_of(files: Sequence[str], known: Iterable[Mapping[str, Any]] = ()) -> list[Input]:
    """What each file holds; one whose stamp is known is not read.

    The times of a file's own record (``st_ctime``) cannot be set, so a file that was rewritten or
    corrected in place is read again although its size and date are what they were (``cp -p``).
    """
    digests = {tuple(entry["stamp"]): entry["sha256"] for entry in known if entry["stamp"]}
    return [_remote(name) if "://" in name else _local(name, digests) for name in files]


def changed(files: Sequence[str], inputs: Sequence[Input]) -> str | None:
    """The first local file that is not what it was when ``inputs`` were taken, else None."""
    for name, found in zip(files, inputs, strict=True):
        if "://" not in name and found.stamp is not None and stamp_of(name) != found.stamp:
            return name
    return None


def stamp_of(file: str) -> Stamp:
    """Size, times and inode of a local file."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _local(file: str, digests: Mapping[tuple[int, ...], str]) -> Input:
    stamp = stamp_of(file)
    if stamp in digests:
        return Input(Path(file).name, stamp[0], digests[stamp], stamp)
    age = time.time_ns() - max(stamp[1:3])
    if 0 <= age < _TICK:  # so that a change from now on bears another time
        time.sleep((_TICK - age) / 1e9)
    sha = digest(file)
    if stamp_of(file) != stamp:
        raise LogError(f"{file} changes while it is read; wait until it is written")
    return Input(Path(file).name, stamp[0], sha, stamp if age >= 0 else None)


def _remote(file: str) -> Input:
    import fsspec

    system, path = fsspec.core.url_to_fs(file)
    about = system.info(path)
    names = ("ETag", "etag", "md5Hash", "crc32c", "LastModified", "last_modified", "mtime")
    version = next((str(about[name]) for name in names if about.get(name)), "")
    with open_file(file) as handle:
        head = handle.read(1 << 12)
        size = handle.seek(0, 2)
        handle.seek(max(0, size - (1 << 16)))
        tail = handle.read()
    sha = hashlib.sha256(json.dumps([size, version]).encode() + head + tail).hexdigest()
    return Input(Path(file).name, size, sha)
