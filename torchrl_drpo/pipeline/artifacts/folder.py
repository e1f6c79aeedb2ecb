"""Directories of weights and facts, written so that no crash leaves a broken one behind.

A manifest (JSON) names its data files by the content they were written with. Data files are
written first, under names that no older manifest uses; then one ``os.replace`` of the manifest
switches to them; then what nothing names any more is removed. A process that dies at any moment
leaves the old directory or the new one. Weights are safetensors: nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchrl_drpo.files import digest, read_json, read_sealed_json, temporary, write_sealed_json

MANIFEST = "manifest.json"


class ArtifactError(ValueError):
    """A directory that is not what it should be: absent, foreign, damaged, of another version."""


def save_artifact(
    directory: str | os.PathLike[str],
    *,
    kind: str,
    version: int,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    lists: Mapping[str, list[Any]] | None = None,
    files: Mapping[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Writes an artifact, or replaces the one that is there.

    Args:
        directory: where; made when absent.
        kind: what it is, checked on loading.
        version: of its layout, checked on loading.
        facts: JSON data for the manifest itself.
        tensors: groups of named tensors, one safetensors file a group.
        lists: long JSON lists (raw ids), one file each.
        files: what writes further files, by their names.

    Returns:
        The directory.
    """
    from safetensors.torch import save_file

    def tensor_writer(group: Mapping[str, Tensor]) -> Callable[[Path], None]:
        plain = {name: t.detach().cpu().contiguous() for name, t in group.items()}
        return lambda path: save_file(plain, path)

    def list_writer(values: list[Any]) -> Callable[[Path], None]:
        return lambda path: _write_list(path, values)

    writers = {f"{name}.safetensors": tensor_writer(group) for name, group in tensors.items()}
    writers |= {f"{name}.json": list_writer(values) for name, values in (lists or {}).items()}
    writers |= files or {}

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: _store(directory, name, write) for name, write in writers.items()}
    write_sealed_json(
        directory / MANIFEST, {"kind": kind, "version": version, "files": stored, **facts}
    )
    _sweep(directory, {entry["path"] for entry in stored.values()}, set(writers))
    return directory


def _within(directory: Path, kind: str) -> str:
    """Where it is, if the folder above was named."""
    found = []
    for manifest in sorted(directory.glob(f"*/{MANIFEST}")):
        with contextlib.suppress(OSError, ValueError):
            if read_sealed_json(manifest).get("kind") == kind:
                found.append(str(manifest.parent))
    return f"; name one of {', '.join(found)}" if found else ""


class Artifact:
    """A directory written by :func:`save_artifact`, opened.

    Args:
        directory: where it lies.
        kind: what it must be.
        version: the layout that the caller understands.

    Raises:
        ArtifactError: if it is absent, not such an artifact, or of another version.
    """

    def __init__(self, directory: str | os.PathLike[str], *, kind: str, version: int) -> None:
        self.directory = Path(directory)
        manifest = self.directory / MANIFEST
        try:
            self.facts = read_sealed_json(manifest)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(
                f"{self.directory} holds no {kind}: no {MANIFEST} there"
                + _within(self.directory, kind)
            ) from None
        except ValueError as error:
            raise ArtifactError(str(error)) from None
        found = self.facts.get("kind")
        if found != kind:
            raise ArtifactError(f"{self.directory} holds {found or 'something else'}, not a {kind}")
        if self.facts.get("version") != version:
            raise ArtifactError(
                f"{self.directory} is a {kind} of version {self.facts.get('version')}, this "
                f"release reads version {version}; write it again with this release, or read it "
                "with the release that wrote it"
            )

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The named tensors of one group, on the CPU."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(f"{group}.safetensors")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{path} is damaged: {error}") from None

    def values(self, name: str) -> list[Any]:
        """One of the long lists."""
        values: list[Any] = read_json(self.path(f"{name}.json"))
        return values

    def path(self, name: str) -> Path:
        """Where one of its files lies; its digest has been checked.

        Raises:
            ArtifactError: if it is not there, or not what was written.
        """
        entry = self.facts.get("files", {}).get(name)
        if entry is None:
            raise ArtifactError(f"{self.directory / MANIFEST} names no {name}; was it edited?")
        path = self.directory / Path(entry["path"]).name  # never outside the directory
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; copy the whole directory")
        if digest(path) != entry["sha256"]:
            raise ArtifactError(
                f"{path} is damaged: its content is not what {MANIFEST} says; copy it again"
            )
        return path


def _store(directory: Path, name: str, write: Callable[[Path], None]) -> dict[str, str]:
    stem, suffix = name.rsplit(".", 1)
    with temporary(directory / name) as file:
        file.touch()
        mode = file.stat().st_mode  # what the user's umask says; safetensors writes 0600
        write(file)
        file.chmod(mode)
        sha = digest(file)
        path = f"{stem}-{sha[:12]}.{suffix}"
        os.replace(file, directory / path)
    return {"path": path, "sha256": sha}


def _sweep(directory: Path, wanted: set[str], names: set[str]) -> None:
    """Removes older versions of the files just written, and nothing else."""
    for name in names:
        stem, suffix = name.rsplit(".", 1)
        for path in directory.glob(f"{stem}-{'[0-9a-f]' * 12}.{suffix}"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _write_list(path: Path, values: list[Any]) -> None:
    path.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")
