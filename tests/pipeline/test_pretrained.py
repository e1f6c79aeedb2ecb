"""Policies in folders and on a hub: what is published, what is checked, what is kept."""

from __future__ import annotations

import fnmatch
import inspect
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.pipeline.serving.served import KINDS, SCHEMA, checkpoint
from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline import pretrained
from torchrl_drpo.pipeline.artifacts.folder import ArtifactError
from torchrl_drpo.pipeline.pretrained import from_pretrained, push_to_hub, save_pretrained
from torchrl_drpo.pipeline.recommend import recommend

HISTORY = ["v3", "v9"]


class FakeHub:
    """Repositories as folders, with the calls of ``huggingface_hub`` that are used."""

    def __init__(self, root: Path) -> None:
        self.root, self.made, self.commits = root, [], []

    def __call__(self, name: str):
        return {"snapshot_download": self.snapshot_download, "HfApi": self.api}[name]

    def api(self, token=None):
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        assert exist_ok
        self.made.append((repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def file_exists(self, repo_id, filename, revision=None):
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, delete_patterns):
        repository = self.root / repo_id
        for file in repository.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in delete_patterns):
                file.unlink()
        shutil.copytree(folder_path, repository, dirs_exist_ok=True)
        self.commits.append(commit_message)
        return f"https://hub/{repo_id}/commit/{len(self.commits)}"

    def snapshot_download(self, *, repo_id, revision, token, cache_dir, allow_patterns):
        if not (self.root / repo_id).exists():
            raise OSError(f"404: no {repo_id}")
        there = Path(cache_dir) / repo_id.replace("/", "--")
        there.mkdir(parents=True)
        for file in (self.root / repo_id).iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, there)
        return str(there)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(pretrained, "_hub", fake)
    return fake


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_recommends_as_the_policy_does_and_names_no_user(kind: str, tmp_path: Path):
    policy = checkpoint(kind)
    folder = save_pretrained(policy, tmp_path / "films")
    loaded = from_pretrained(folder)
    asked = {"history": HISTORY, "context": [6], "features": [0.5], "k": 5}
    assert recommend(loaded, **asked) == recommend(policy, **asked)
    assert len(loaded.users.ids) == 0
    assert recommend(loaded, k=3)  # somebody of whom nothing is known
    assert not (folder / "index").exists()
    with_users = from_pretrained(save_pretrained(policy, tmp_path / "inside", users=True))
    assert recommend(with_users, 7, k=5) == recommend(policy, 7, k=5)


def test_a_hub_gives_back_what_was_pushed(hub: FakeHub, tmp_path: Path):
    policy = checkpoint("catalogue")
    where = push_to_hub(policy, "me/films")
    assert where == "https://hub/me/films/commit/1"
    assert hub.made == [("me/films", True)]
    loaded = from_pretrained("me/films", cache_dir=tmp_path / "cache")
    assert recommend(loaded, history=HISTORY) == recommend(policy, history=HISTORY)


def test_the_next_push_replaces_what_is_ours_and_keeps_the_card(hub: FakeHub):
    repository = hub.root / "me/films"
    push_to_hub(checkpoint("catalogue", seed=0), "me/films")
    (repository / "README.md").write_text("edited")
    (repository / "notes.json").write_text("{}")
    first = {file.name for file in repository.glob("policy-*")}
    push_to_hub(checkpoint("catalogue", seed=1), "me/films")
    second = {file.name for file in repository.glob("policy-*")}
    assert len(first) == len(second) == 1
    assert first != second
    assert (repository / "README.md").read_text() == "edited"
    assert (repository / "notes.json").exists()


def test_a_download_is_held_against_its_digests(hub: FakeHub, tmp_path: Path):
    push_to_hub(checkpoint("catalogue"), "me/films")
    (weights,) = (hub.root / "me/films").glob("policy-*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"is damaged: its content is not what manifest\.json"):
        from_pretrained("me/films", cache_dir=tmp_path / "cache")


def test_what_is_nowhere_is_named(hub: FakeHub, tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"me/none is no folder here.*404"):
        from_pretrained("me/none", cache_dir=tmp_path / "cache")
    for name in (tmp_path / "absent", "films", "../films"):
        with pytest.raises(ArtifactError, match="neither a folder here nor an id on the Hub"):
            from_pretrained(name)
    with pytest.raises(ValueError, match="ids on the Hub are owner/name, got 'films'"):
        push_to_hub(checkpoint("catalogue"), "films")


def test_without_the_library_folders_work_and_ids_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = save_pretrained(checkpoint("catalogue"), tmp_path / "films")
    assert from_pretrained(folder).policy == "catalogue"
    with pytest.raises(ModuleNotFoundError, match=r'pip install "torchrl-drpo\[hub\]"'):
        from_pretrained("me/films")


def test_the_card_says_what_is_known_and_no_place_on_this_machine(tmp_path: Path):
    policy = checkpoint("catalogue")
    bare = (save_pretrained(policy, tmp_path / "bare") / "README.md").read_text()
    assert bare.count("Not recorded.") == 2
    facts = {
        "objective": "drpo",
        "config": {"logs": str(tmp_path / "secret" / "ratings.csv"), "steps": 20},
        "data": {"rows": 1234, "users": 20, "parts": {"train": 1000, "test": 234}},
        "metrics": {"hr@10": 0.25, "hr@10_best_lowest": None},
    }
    folder = save_pretrained(replace(policy, facts=facts), tmp_path / "told")
    card = (folder / "README.md").read_text()
    assert "1,234 rows, 20 users; 1,000 in train, 234 in test." in card
    assert "On 234 held-out rows" in card
    assert "| hr@10 | 0.25 |" in card
    assert "`drpo`" in card
    assert "hr@10_best_lowest" not in card
    assert "license:" not in card.split("---")[1]
    kept = json.loads((folder / "manifest.json").read_text())["facts"]
    assert kept["config"] == {"steps": 20}


PLACES = (
    "/home/alice/items.parquet", "~/alice/items.parquet", "../alice/items.parquet",
    r"C:\Users\alice\items.parquet", "s3://alice/items.parquet", "file:///home/alice/items.parquet",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_tables_of_the_schema_lie_nowhere_on_this_machine(place: str, tmp_path: Path):
    """The schema is a text within the facts."""
    schema = replace(SCHEMA, items=ItemTable(path=place, id="id"), quality="play / length")
    policy = replace(checkpoint("catalogue"), facts={"schema": schema.to_json()})
    folder = save_pretrained(policy, tmp_path / "films")
    assert b"alice" not in b"".join(path.read_bytes() for path in folder.iterdir())
    kept = LogSchema.from_json(from_pretrained(folder).facts["schema"])
    assert kept == replace(schema, items=ItemTable(path="items.parquet", id="id"))


@pytest.mark.parametrize("ids", [[7, 9, 8], ["a@b.org", "c@d.org", "e@f.org"]])
def test_users_who_are_a_context_are_not_published_by_the_way(hub: FakeHub, tmp_path: Path, ids):
    policy = checkpoint("catalogue")
    users = replace(policy.users, context=torch.tensor([[2], [0], [1]]))
    named = replace(policy, contexts=[Catalogue(ids)], users=users)
    for publish in (
        lambda **said: save_pretrained(named, tmp_path / "films", **said),
        lambda **said: push_to_hub(named, "me/films", **said),
    ):
        with pytest.raises(ValueError, match=r"context column 1, which has a value of its own for"):
            publish()
    assert not (tmp_path / "films").exists()
    assert hub.made == []
    save_pretrained(named, tmp_path / "films", users=True)
    save_pretrained(
        replace(named, contexts=[Catalogue([str(each) for each in (*ids, "x")])]), tmp_path / "more"
    )


def test_the_cards_own_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    card = (save_pretrained(checkpoint("catalogue"), "films") / "README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0].strip().splitlines()
    scope: dict = {}
    exec("\n".join([*lines[:-1], f"found = {lines[-1]}"]), scope)
    assert len(scope["found"]) == 10


def test_huggingface_hub_takes_these_calls():
    real = pytest.importorskip("huggingface_hub")

    for name, used in {
        "create_repo": {"repo_id", "private", "exist_ok"},
        "file_exists": {"repo_id", "filename", "revision"},
        "upload_folder": {
            "repo_id", "folder_path", "revision", "commit_message", "delete_patterns",
        },
    }.items():  # fmt: skip
        assert used <= set(inspect.signature(getattr(real.HfApi, name)).parameters)
    download = set(inspect.signature(real.snapshot_download).parameters)
    assert {"repo_id", "revision", "token", "cache_dir", "allow_patterns"} <= download
