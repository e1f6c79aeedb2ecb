from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from torchrl_drpo.files import read_sealed_json, write_json, write_sealed_json
from torchrl_drpo.pipeline.artifacts.folder import MANIFEST, Artifact, ArtifactError, save_artifact


def save(directory: Path, value: float = 1.0, **changes) -> Path:
    arguments = {
        "kind": "test",
        "version": 3,
        "facts": {"seed": 7},
        "tensors": {"weights": {"w": torch.full((2, 3), value), "n": torch.arange(4)}},
        "lists": {"ids": ["a", "b"]},
    }
    return save_artifact(directory, **{**arguments, **changes})


def read(directory: Path) -> Artifact:
    return Artifact(directory, kind="test", version=3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    artifact = read(save(tmp_path / "new" / "place"))
    assert artifact.facts["seed"] == 7
    assert artifact.values("ids") == ["a", "b"]
    assert torch.equal(artifact.tensors("weights")["w"], torch.ones(2, 3))
    assert torch.equal(artifact.tensors("weights")["n"], torch.arange(4))


def test_replacing_leaves_only_the_new_files_and_the_users_own(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "weights-mine.safetensors").write_text("mine")
    save(tmp_path, 2.0)
    assert read(tmp_path).tensors("weights")["w"][0, 0] == 2
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["ids", MANIFEST, "notes.md", "weights", "weights"]


@pytest.mark.parametrize("calls_before_death", range(4))
def test_a_crash_at_any_rename_leaves_the_old_artifact_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls_before_death: int
) -> None:
    save(tmp_path)
    real, calls = os.replace, 0

    def dying(source, target) -> None:
        nonlocal calls
        if calls == calls_before_death:
            raise KeyboardInterrupt
        calls += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", dying)
    if calls_before_death < 3:  # two data files and the manifest
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2.0, lists={"ids": ["c"]})
    else:
        save(tmp_path, 2.0, lists={"ids": ["c"]})
    monkeypatch.undo()
    artifact = read(tmp_path)
    values = artifact.tensors("weights")["w"][0, 0].item(), artifact.values("ids")
    assert values == ((2.0, ["c"]) if calls_before_death == 3 else (1.0, ["a", "b"]))
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_absent_foreign_and_other_versions_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no test: no manifest\.json there"):
        read(tmp_path / "nowhere")
    save(tmp_path)
    with pytest.raises(ArtifactError, match="holds test, not a tree"):
        Artifact(tmp_path, kind="tree", version=3)
    with pytest.raises(ArtifactError, match="of version 3, this release reads version 4"):
        Artifact(tmp_path, kind="test", version=4)
    (tmp_path / MANIFEST).write_text("[1]")
    with pytest.raises(ArtifactError, match="expected an object, found list"):
        read(tmp_path)
    (tmp_path / MANIFEST).write_text('{"kind": ')
    with pytest.raises(ArtifactError, match=r"manifest\.json is not JSON"):
        read(tmp_path)


def test_truncated_and_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path)
    weights = next(tmp_path.glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"weights-.* is damaged: its content is not what"):
        read(tmp_path).tensors("weights")
    weights.unlink()
    with pytest.raises(ArtifactError, match="is missing; copy the whole directory"):
        read(tmp_path).tensors("weights")
    with pytest.raises(ArtifactError, match=r"names no more\.json"):
        read(tmp_path).values("more")


def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path) -> None:
    save(tmp_path)
    weights = next(tmp_path.glob("weights-*"))
    weights.write_bytes(b"not weights")
    manifest = read_sealed_json(tmp_path / MANIFEST)
    digest = hashlib.sha256(b"not weights").hexdigest()
    manifest["files"]["weights.safetensors"]["sha256"] = digest
    write_sealed_json(tmp_path / MANIFEST, manifest)
    with pytest.raises(ArtifactError, match=r"weights-.* is damaged"):
        read(tmp_path).tensors("weights")


def test_a_manifest_cannot_point_outside_its_directory(tmp_path: Path) -> None:
    save(tmp_path / "a")
    manifest = read_sealed_json(tmp_path / "a" / MANIFEST)
    secret = tmp_path / "secret.json"
    secret.write_text("[1]")
    manifest["files"]["ids.json"]["path"] = "../secret.json"
    write_sealed_json(tmp_path / "a" / MANIFEST, manifest)
    with pytest.raises(ArtifactError, match=r"a/secret.json is missing"):
        read(tmp_path / "a").values("ids")


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"nan": float("nan")})
    assert list(tmp_path.iterdir()) == []
