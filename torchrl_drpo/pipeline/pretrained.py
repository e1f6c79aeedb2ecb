"""Trained policies in folders and on the Hugging Face Hub: save, load, publish.

    save_pretrained(PolicyCheckpoint.load("runs/mine/drpo"), "published")
    push_to_hub(PolicyCheckpoint.load("runs/mine/drpo"), "me/films")     # pip install ".[hub]"
    recommend(from_pretrained("me/films"), history=[7, 42])

What is published is a :class:`PolicyCheckpoint`: safetensors and a sealed manifest of JSON with the
digest of every file, all of which are checked when it is read; nothing is unpickled. The log's
users, who are people, stay out unless they are asked for.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.files import write_text
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.folder import MANIFEST, ArtifactError
from torchrl_drpo.pipeline.artifacts.users import UserHistories
from torchrl_drpo.pipeline.model_card import model_card
from torchrl_drpo.pipeline.reward_model.folding import names_user

CARD = "README.md"
#: Settings that name files of the log, which may say whose it is.
_FILES = ("logs", "schema")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
#: Files of a checkpoint, by what they hold and the beginning of their digest.
_OWN_FILES = [
    f"{name}-{'[0-9a-f]' * 12}.{kind}"
    for kind, names in {
        "safetensors": ("policy", "users"),
        "json": ("item_ids", "user_ids", "contexts"),
    }.items()
    for name in names
]


def save_pretrained(
    checkpoint: PolicyCheckpoint, directory: str | os.PathLike[str], *, users: bool = False
) -> Path:
    """Writes a policy and a model card into a folder, as :func:`push_to_hub` publishes them.

    Args:
        checkpoint: the policy.
        directory: where; an older policy there is replaced, a card that is there is kept.
        users: whether to write the log's users with what they did. They are personal data, so they
            are left out by default: the policy then recommends for histories that it is given.

    Returns:
        The folder.

    Raises:
        ValueError: without ``users``, for a policy that reads the users' ids as a context column.
    """
    directory = Path(directory)
    _published(checkpoint, users).save(directory, index=False)
    if not (directory / CARD).exists():
        write_text(directory / CARD, model_card(checkpoint, directory.name))
    return directory


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> PolicyCheckpoint:
    """Reads a policy from a folder or, where there is no such folder, from the Hub.

    Args:
        source: a folder, as of :func:`save_pretrained` or ``drpo train``; or an id on the Hub,
            ``"owner/name"``, which needs ``pip install "torchrl-drpo[hub]"``.
        revision: branch, tag or commit on the Hub.
        token: for private repositories, where you have not logged in.
        cache_dir: where downloads lie, by default where Hugging Face keeps them.

    Raises:
        ArtifactError: if there is no policy, or one that is damaged, foreign or of another
            version; every file is held against the manifest's digest.
        ModuleNotFoundError: for an id without ``huggingface_hub``.
    """
    if Path(source).exists():
        return PolicyCheckpoint.load(source)
    if not _HUB_ID.fullmatch(str(source)):
        raise ArtifactError(
            f"{source} is neither a folder here nor an id on the Hub, which are owner/name"
        )
    snapshot_download = _hub("snapshot_download")
    try:
        folder = snapshot_download(
            repo_id=str(source), revision=revision, token=token, cache_dir=cache_dir,
            allow_patterns=[MANIFEST, *_OWN_FILES],
        )  # fmt: skip
    except Exception as error:  # of whichever library it downloads with
        raise ArtifactError(
            f"{source} is no folder here, and the Hub did not give it: {error}"
        ) from error
    return PolicyCheckpoint.load(folder)


def push_to_hub(
    checkpoint: PolicyCheckpoint,
    repo_id: str,
    *,
    users: bool = False,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    message: str = "A policy of torchrl-drpo",
) -> str:
    """Publishes a policy on the Hugging Face Hub, in one commit.

    A card that the repository has is kept; files of an older policy go, and no others.

    Args:
        checkpoint: the policy.
        repo_id: ``"owner/name"``; the repository is made where there is none.
        users: as of :func:`save_pretrained`.
        private: whether a new repository is. Ids of items and weights say much about a log.
        revision: branch to commit to.
        token: where you have not logged in.
        message: of the commit.

    Returns:
        Where the commit is found.

    Raises:
        ValueError: for an id of another form, or as of :func:`save_pretrained`.
        ModuleNotFoundError: without ``huggingface_hub``.
    """
    if not _HUB_ID.fullmatch(repo_id):
        raise ValueError(f"ids on the Hub are owner/name, got {repo_id!r}")
    published = _published(checkpoint, users)  # which may be refused, before anything is made
    api = _hub("HfApi")(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        published.save(folder, index=False)
        if not api.file_exists(repo_id, CARD, revision=revision):
            write_text(Path(folder) / CARD, model_card(checkpoint, repo_id))
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message,
            delete_patterns=_OWN_FILES,
        )  # fmt: skip
    return str(commit)


def _published(checkpoint: PolicyCheckpoint, users: bool) -> PolicyCheckpoint:
    """What others get: no place on this machine, and no users unless they are asked for."""
    known = checkpoint.users
    if not users:
        _check_contexts(checkpoint)
        known = UserHistories(
            ids=Catalogue([]),
            items=known.items[:0],
            offsets=torch.zeros(1, dtype=known.offsets.dtype),
            context=known.context[:0],
            features=known.features[:0],
            times=None if known.times is None else known.times[:0],
            feedback=None if known.feedback is None else known.feedback[:0],
        )
    return replace(checkpoint, users=known, facts=_without_places(checkpoint.facts))


def _check_contexts(checkpoint: PolicyCheckpoint) -> None:
    """Refuses a context column whose values are the users: the policy cannot be without them."""
    users = torch.arange(len(checkpoint.users.ids))
    latest = checkpoint.users.context
    for place, values in enumerate(checkpoint.contexts):
        if len(users) < 2 or len(values) != len(users) or bool((latest[:, place] < 0).any()):
            continue
        if names_user(users, latest[:, place : place + 1]):
            raise ValueError(
                f"the policy reads context column {place + 1}, which has a value of its own for "
                f"each of {len(users):,} users: its values are their ids, or as good, and belong to"
                " the policy. Train one without that column, or say users=True"
            )


def _without_places(value: Any) -> Any:
    """Facts in which paths are names alone, and the log and its schema's file have none."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name != "config"}
        kept = {name: _without_places(each) for name, each in kept.items()}
        if isinstance(value.get("config"), dict):
            config = {name: each for name, each in value["config"].items() if name not in _FILES}
            kept["config"] = _without_places(config)
        if isinstance(value.get("schema"), str):  # JSON, whose tables have paths
            kept["schema"] = _schema_without_places(value["schema"])
        return kept
    if isinstance(value, list | tuple):
        return [_without_places(each) for each in value]
    return _name_of(value) if isinstance(value, str) else value


def _schema_without_places(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:  # of somebody's own making
        return _name_of(text)
    return json.dumps(_without_places(found), indent=2)


def _name_of(text: str) -> str:
    """The last part of a path that leads into this machine or a store; other texts as they are."""
    leads = Path(text).is_absolute() or PureWindowsPath(text).is_absolute()
    if leads or "://" in text or text.startswith("~") or ".." in PurePosixPath(text).parts:
        return PureWindowsPath(text).name  # which takes both kinds of slashes
    return text


def _hub(name: str) -> Callable[..., Any]:
    """A name of ``huggingface_hub``."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'ids on the Hub need huggingface_hub: pip install "torchrl-drpo[hub]"', name=error.name
        ) from error
    return getattr(huggingface_hub, name)
