"""From a path, folder, glob or URI to the files of a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import join
from typing import Any

from .errors import LogError
from .formats import EXPECTED, is_loose, kind_of

_WORDS = {"parquet": "Parquet", "text": "CSV", "json": "JSON"}


def resolve(source: Any, beside: Sequence[str]) -> list[str]:
    """The files of a path, folder, glob, URI or list of these, in the order of their names.

    Raises:
        FileNotFoundError: if nothing matches.
        LogError: if a folder holds files of two kinds.
    """
    parts = source if isinstance(source, list | tuple) else [source]
    files: list[str] = []
    for part in parts:
        if not isinstance(part, str | Path):
            raise TypeError(
                "a log is a path, a list of paths, a TensorDict, or a frame (pandas, polars, Arrow "
                f"or another with __arrow_c_stream__), got {type(part).__name__}"
            )
        files += _expand(str(part), beside)
    if not files:
        raise FileNotFoundError(f"no log files in an empty list: {source!r}")
    return files


def _expand(text: str, beside: Sequence[str]) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(text)
    if system.isfile(path):  # a file that is named is wanted, whatever signs its name holds
        return [_named(system, path)]
    if system.isdir(path):
        known = [name for name in sorted(system.find(path)) if kind_of(name)]
        found = [name for name in known if not is_loose(name)] or known
        found = _listed(found, beside)
        kinds = {kind_of(name) for name in found}
        if len(kinds) > 1:
            words = " and ".join(word for kind, word in _WORDS.items() if kind in kinds)
            raise LogError(
                f"{text} holds {words} files; say which, as in {text}/*{_ending(found[0])}"
            )
    else:
        found = sorted(system.glob(_escaped(system, path))) if _is_pattern(path) else []
    found = _listed(found, beside)
    if not found:
        raise FileNotFoundError(f"no log file matches {text!r}; expected {EXPECTED}")
    return [_named(system, name) for name in found]


def _listed(files: list[str], beside: Sequence[str]) -> list[str]:
    """Without what is hidden, and without the tables that lie beside the log."""
    shown = [name for name in files if not name.rpartition("/")[2].startswith(("_", "."))]
    return [n for n in shown if all(join(folder_of(n), table) != n for table in beside)]


def _ending(file: str) -> str:
    return "." + file.rpartition("/")[2].partition(".")[2]


def _is_pattern(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _escaped(system: Any, path: str) -> str:
    """The pattern, in which folders that exist stand for themselves, brackets or not."""
    folder, slash, rest = path.rpartition("/")
    if not _is_pattern(folder):
        return path
    if system.isdir(folder):
        return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in folder) + slash + rest
    return _escaped(system, folder) + slash + rest


def _named(system: Any, path: str) -> str:
    return path if _is_local(system) else system.unstrip_protocol(path)


def _is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else [system.protocol])


def folder_of(file: str) -> str:
    """The folder of a path or URI."""
    return file.rpartition("/")[0] or "."
