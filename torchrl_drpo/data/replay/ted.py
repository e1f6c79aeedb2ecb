"""TED rows from elsewhere (a simulator, another TorchRL buffer), checked and memory-mapped."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase

from torchrl_drpo.functional.checks import check_finite

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
    if out.get(DONE, None) is None:  # one-step interactions: nothing follows
        out.set(DONE, torch.ones(len(out), 1, dtype=torch.bool))
    if out.get(TERMINATED, None) is None:
        out.set(TERMINATED, out.get(DONE).clone())
    return out


def store_ted(rows: TensorDictBase, root: Path) -> tuple[TensorDictBase, str]:
    """Writes TED rows under ``root`` in one step; returns them mapped, and their identity.

    Raises:
        FileExistsError: if ``root`` holds rows already.
    """
    target = root / "rows"
    if target.exists():
        raise FileExistsError(
            f"{target} exists; open it with TensorDict.load_memmap, or choose another root"
        )
    checked = checked_ted(rows).cpu()
    work = root / "rows.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    checked.memmap(work)
    os.replace(work, target)
    digest = hashlib.sha256(checked.get(REWARD).numpy().tobytes())
    return TensorDict.load_memmap(target), digest.hexdigest()[:16]
