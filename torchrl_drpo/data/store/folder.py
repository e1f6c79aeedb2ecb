"""The folder of a converted log: its layout, how it appears atomically, and how it is opened.

root/
manifest.json            which data folder is current, and what it holds; replaced atomically
data-<fingerprint>/
schema.json
rows/                  a memory-mapped TensorDict in TED layout (TensorDict.load_memmap)
index/*.bin            raw arrays: offsets of users, trajectories, slates; rows of each part
catalogues/            numbers of user, item and context ids
data-<fingerprint>.partial/   a conversion under way, with its journal
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT = "torchrl-drpo-log"
VERSION = 1


def write_json(path: Path, data: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1))
    os.replace(temporary, path)


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Keeps a second conversion out of the folder; the lock dies with its process."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this platform: two conversions at once are the user's to avoid
        yield
        return
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another process is converting into {root}; wait for it or choose another root"
            ) from None
        yield


def publish(root: Path, work: Path, manifest: dict[str, Any]) -> None:
    """Makes a finished work folder the current one, in one atomic step, and drops all others."""
    final = root / work.name.removesuffix(".partial")
    if final.exists():
        shutil.rmtree(final)
    os.replace(work, final)
    write_json(root / "manifest.json", {**manifest, "data": final.name})
    for other in root.glob("data-*"):
        if other != final:
            shutil.rmtree(other)
