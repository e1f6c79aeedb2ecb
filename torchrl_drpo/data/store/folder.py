"""The folder of a converted log: its layout, how it appears in one step, and what may be removed.

    root/manifest.json                 what lies where, with digests; replaced in one step
    root/.lock                         held by whoever converts
    root/data-<fingerprint>.partial/   a conversion under way, with its notes
    root/data-<fingerprint>/
        torchrl-drpo.json              the mark: a conversion made this folder
        schema.json
        rows/                          columns in TED layout, raw; meta.json is for other readers
        index/*.bin                    raw: offsets of users, trajectories, slates; rows of parts
        catalogues/                    numbers of user, item and context ids

Names of files are this package's own: nothing that a log says becomes a path. Only folders that
bear the mark, or that a manifest of this package names, are ever removed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrl_drpo.files import digest, read_json, sampled_digest

from .manifest import FORMAT, MANIFEST, File, Manifest, write_manifest

MARK = "torchrl-drpo.json"
_NAME = re.compile(r"data-[0-9a-f]{16}(\.partial)?")
#: Seconds between two looks at a lock, and for which its holder may be about to say what it does.
_WAIT, _PATIENCE = 0.1, 1.0


def mark(work: Path) -> None:
    """Makes a work folder, marked as a conversion's own.

    Raises:
        FileExistsError: if something else stands there.
    """
    if work.is_symlink() or (work.exists() and not (is_own(work) or _is_empty(work))):
        raise _in_the_way(work)
    work.mkdir(parents=True, exist_ok=True)
    name = work.name.removesuffix(".partial")
    (work / MARK).write_text(json.dumps({"format": FORMAT, "data": name}), encoding="utf-8")


def fresh(work: Path) -> None:
    """Makes a marked work folder with nothing in it; what a dead conversion left there goes."""
    mark(work)
    shutil.rmtree(work)
    mark(work)


def _is_empty(folder: Path) -> bool:
    """Whether nothing is there but the beginning of a mark."""
    return folder.is_dir() and all(entry.name == MARK for entry in folder.iterdir())


def _in_the_way(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} is in the way: no conversion made it; move it elsewhere and convert again"
    )


def is_own(folder: Path) -> bool:
    """Whether a folder bears a conversion's name and mark."""
    if not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        found = read_json(folder / MARK)
    except (OSError, ValueError):
        return False
    name = folder.name.removesuffix(".partial")
    return found == {"format": FORMAT, "data": name}


def has_links(folder: Path) -> bool:
    """Whether anything in a folder is a link, or has another name: writing could change more."""
    return any(
        path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)
        for path in folder.rglob("*")
    )


@contextmanager
def exclusive(root: Path, request: str) -> Iterator[None]:
    """Keeps a second conversion out of the folder; the lock dies with its process.

    Where another process converts the same ``request``, this waits for it to end.

    Raises:
        BlockingIOError: if another process converts something else into the folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this platform: two conversions at once are the user's to avoid
        yield
        return
    path = root / ".lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    held, patience = False, time.monotonic() + _PATIENCE
    try:
        while not (held := _locked(lock, fcntl)):
            other = os.pread(lock, 64, 0).decode(errors="replace")
            if other != request and (other or time.monotonic() > patience):
                raise BlockingIOError(
                    f"another process is converting into {root}; wait for it or choose another root"
                )
            time.sleep(_WAIT)
        os.ftruncate(lock, 0)
        os.pwrite(lock, request.encode(), 0)
        yield
    finally:
        if held:
            os.ftruncate(lock, 0)
        os.close(lock)


def _locked(lock: int, fcntl) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks: as on a platform without them
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


def digests(folder: Path, without: Collection[str] = ()) -> dict[str, File]:
    """Every file of a finished work folder with its digests, and on the disk for good.

    Args:
        folder: the work folder.
        without: files and folders that do not stay.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() != MARK and name.parts[0] not in without:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            files[name.as_posix()] = File(path.stat().st_size, digest(path), sampled_digest(path))
    return files


def publish(root: Path, work: Path, manifest: Manifest) -> None:
    """Makes a finished work folder the current one, in one step, and removes those before it."""
    earlier = _named_by_manifest(root)
    final = root / manifest.data
    if final.is_symlink() or (final.exists() and not is_own(final) and final != earlier):
        raise _in_the_way(final)
    write_manifest(work / MANIFEST, manifest)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(work, final)
    os.replace(final / MANIFEST, root / MANIFEST)
    for other in root.glob("data-*"):
        if other != final and (other == earlier or is_own(other)):
            shutil.rmtree(other, ignore_errors=True)  # what stays is removed the next time


def _named_by_manifest(root: Path) -> Path | None:
    """The data folder of the conversion that is replaced, of an earlier version too."""
    try:
        name = read_json(root / MANIFEST)["data"]
        earlier = root / name
        fits = re.fullmatch(r"data-[0-9a-f]{16}", name) is not None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    written = earlier / "schema.json", earlier / "rows" / "meta.json"
    own = fits and not earlier.is_symlink() and all(path.is_file() for path in written)
    return earlier if own else None
