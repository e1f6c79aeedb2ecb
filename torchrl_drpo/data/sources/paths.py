"""From a path, folder, glob or URI to the files of a log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from posixpath import join
from typing import Any

from .errors import LogError
from .formats import CSV, PARQUET


def resolve(source: Any, beside: Sequence[str]) -> list[str]:
    """The files of a path, folder, glob, URI or list of these, in the order of their names.

    Raises:
        FileNotFoundError: if nothing matches.
        LogError: if a folder holds both Parquet and CSV files.
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
        everything = sorted(system.find(path))
        found = [name for name in everything if name.lower().endswith((*PARQUET, *CSV))]
        kinds = {name.lower().endswith(PARQUET) for name in found}
        if len(kinds) > 1:
            raise LogError(f"{text} holds Parquet and CSV files; say which, as in {text}/*.parquet")
    else:
        found = sorted(system.glob(_escaped(system, path))) if _is_pattern(path) else []
    found = [name for name in found if not name.rpartition("/")[2].startswith(("_", "."))]
    found = [n for n in found if all(join(folder_of(n), table) != n for table in beside)]
    if not found:
        raise FileNotFoundError(f"no log file matches {text!r}; expected Parquet or CSV files")
    return [_named(system, name) for name in found]


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
