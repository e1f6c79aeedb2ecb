"""TED rows from elsewhere (a simulator, another TorchRL buffer), checked and memory-mapped."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from tensordict import TensorDictBase, is_leaf_nontensor
from torch import Tensor

from torchrl_drpo.files import fingerprint, telling_full_disk
from torchrl_drpo.functional.checks import check_finite

from ..store.folder import digests, exclusive, fresh, publish
from ..store.manifest import MANIFEST, SIZES, Array, Key, Manifest

REWARD, DONE, TERMINATED = ("next", "reward"), ("next", "done"), ("next", "terminated")


def checked_ted(rows: TensorDictBase) -> TensorDictBase:
    """A copy of TED rows with ``done`` and ``terminated`` present, after checks.

    Raises:
        ValueError: if there is no row, no action or reward, a reward is not finite, or a
            propensity lies outside (0, 1].
    """
    if rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"expected rows of batch size [N], N at least 1, got {rows.batch_size}")
    out = rows.detach().clone(recurse=False)
    for key in ("action", REWARD):
        if out.get(key, None) is None:
            raise ValueError(
                f"TED rows need {key!r}, found {sorted(map(str, out.keys(True, True)))}; for a "
                "log's own columns pass a schema"
            )
    reward = out.get(REWARD)
    reward = reward.reshape(len(out), -1).float()
    if reward.shape[1] != 1:
        raise ValueError(f"{REWARD} must be one number a row, got {tuple(out.get(REWARD).shape)}")
    check_finite("reward", reward.squeeze(-1), hint="drop or mend these rows")
    out.set(REWARD, reward)
    propensity = out.get("propensity", None)
    if propensity is not None:
        bad = ~((propensity > 0) & (propensity <= 1)).reshape(len(out), -1).all(-1)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"propensity must lie in (0, 1] but row {row} holds {propensity[row].tolist()} "
                f"({int(bad.sum())} such rows)"
            )
    logarithm = out.get("log_propensity", None)
    if logarithm is not None and not ((logarithm <= 0) & logarithm.isfinite()).all():
        raise ValueError("log_propensity must be finite and at most 0: logarithms of (0, 1]")
    if out.get(DONE, None) is None:  # one-step interactions: nothing follows
        out.set(DONE, torch.ones(len(out), 1, dtype=torch.bool))
    if out.get(TERMINATED, None) is None:
        out.set(TERMINATED, out.get(DONE).clone())
    return out


def store_ted(rows: TensorDictBase, root: Path) -> None:
    """Writes TED rows into ``root`` in one step, for :func:`~.log.open_log`.

    Raises:
        FileExistsError: if ``root`` holds rows or a log already.
        ValueError: on rows that are not TED rows, or hold anything but tensors.
        OSError: if the disk is full; nothing is left behind but a folder that the next try takes.
    """
    _refuse_occupied(root)
    columns = _columns(checked_ted(rows).cpu())
    arrays = {
        key: Array(f"rows/{place}.bin", str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for place, (key, value) in enumerate(columns.items())
    }
    content = [
        [key, arrays[key].dtype, arrays[key].shape, hashlib.sha256(_bytes(value)).hexdigest()]
        for key, value in columns.items()
    ]
    name = f"data-{fingerprint(content)[:16]}"
    with telling_full_disk(f"writing rows into {root}"), exclusive(root, name):
        _refuse_occupied(root)  # by another process, while this one waited
        work = root / f"{name}.partial"
        fresh(work)
        (work / "rows").mkdir()
        for key, value in columns.items():
            with (work / arrays[key].file).open("wb") as file:
                file.write(_bytes(value))
        manifest = Manifest(name, len(rows), arrays, files=digests(work))
        publish(root, work, manifest)


def _refuse_occupied(root: Path) -> None:
    if (root / MANIFEST).exists():
        raise FileExistsError(
            f"{root} holds rows already; open it with RecReplayBuffer.open, or choose another root"
        )


def _columns(rows: TensorDictBase) -> dict[Key, Tensor]:
    """The leaves by their keys, as tuples."""
    columns: dict[Key, Tensor] = {}
    for key, value in rows.items(True, True, is_leaf=is_leaf_nontensor):
        if not isinstance(value, Tensor) or str(value.dtype).removeprefix("torch.") not in SIZES:
            what = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"rows hold tensors of numbers or booleans, but {key!r} is {what}; leave it out"
            )
        columns[key if isinstance(key, tuple) else (key,)] = value.as_subclass(Tensor)
    return columns


def _bytes(value: Tensor) -> memoryview:
    flat = value.contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")
