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
                "a log is a path, a list of paths, a pandas or polars frame, an Arrow table or a "
                f"TensorDict, got {type(part).__name__}"
            )
        files += _expand(str(part), beside)
    if not files:
        raise FileNotFoundError(f"no log files in an empty list: {source!r}")
    return files


def _expand(text: str, beside: Sequence[str]) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(text)
    if any(sign in path for sign in "*?["):
        found = sorted(system.glob(path))
    elif system.isdir(path):
        everything = sorted(system.find(path))
        found = [name for name in everything if name.lower().endswith((*PARQUET, *CSV))]
        kinds = {name.lower().endswith(PARQUET) for name in found}
        if len(kinds) > 1:
            raise LogError(f"{text} holds Parquet and CSV files; say which, as in {text}/*.parquet")
    elif system.exists(path):
        found = [path]
    else:
        found = []
    found = [name for name in found if not Path(name).name.startswith(("_", "."))]
    if found != [path]:  # a file that is named is wanted
        found = [n for n in found if all(join(folder_of(n), table) != n for table in beside)]
    if not found:
        raise FileNotFoundError(f"no log file matches {text!r}; expected Parquet or CSV files")
    return [name if _is_local(system) else system.unstrip_protocol(name) for name in found]


def _is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else [system.protocol])


def folder_of(file: str) -> str:
    """The folder of a path or URI."""
    return file.rpartition("/")[0] or "."
