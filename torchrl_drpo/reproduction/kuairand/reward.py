"""The critic of a part of the log: fitted once, and found again by every cell of every process.

Cells do not know where their results are kept, and a folder that they were told would be part of
their identity. So fits lie in a folder of the user's own below the system's temporary one, each
under the fingerprint of all that it depends on.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torchrl_drpo.data.store.folder import exclusive
from torchrl_drpo.pipeline.reward_model.fit import RewardFit
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.reward_model.make import RewardConfig
from torchrl_drpo.reproduction.kuairand.split import HISTORY, open_split


def open_reward(logs: str, part: str, settings: Mapping[str, Any], device: str) -> LogReward:
    """The critic of a part's training rows; a second process waits for the first one's fit.

    Args:
        logs: the KuaiRand log.
        part: see :func:`~torchrl_drpo.reproduction.kuairand.split.open_split`.
        settings: numbers of the fit that differ from :class:`RewardConfig`'s.
        device: where to fit, and to ask.
    """
    return _opened(logs, part, tuple(settings.items()), device)


@lru_cache(maxsize=2)
def _opened(logs: str, part: str, settings: tuple[tuple[str, Any], ...], device: str) -> LogReward:
    data, config = open_split(logs, part).data, RewardConfig(**dict(settings))

    def fit_in(folder: Path) -> RewardFit:
        return RewardFit(data, folder, history=HISTORY, device=device, settings=config)

    root = fits_folder()
    name = fit_in(root).fingerprint
    with exclusive(root / name[:32], name):
        return fit_in(root / name[:32]).open(lambda there, of_all: None)


def fits_folder() -> Path:
    """Where fits are kept: a folder that is this user's alone.

    Where that name is somebody else's, a fresh folder: the fit is then this process's alone.
    """
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"drpo-kuairand-critics-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == user)
    return folder if own else Path(tempfile.mkdtemp(prefix="drpo-kuairand-critics-"))


def fit(logs: str, part: str, reward: Mapping[str, Any], device: str) -> dict[str, Any]:
    """A cell: fits the critic, so that no other cell's time counts it, and says how good it is."""
    return open_reward(logs, part, reward, device).facts
