"""Named logs: ``load_dataset("rec:kuairand-pure", root=...)`` through TorchRL's registry.

The prefix ``rec`` is registered by any public name of this package that needs TorchRL, and by
``import torchrl_drpo`` itself where TorchRL's data were imported before. Published logs are read
from a local folder in the formats in which they are published (nothing is downloaded); simulated
ones are made on the spot. They work wherever TorchRL takes a data set, as in
``OfflineToOnlineReplayBuffer("rec:movielens", root=..., batch_size=256, online_capacity=10_000)``.
TorchRL concatenates offline and online rows, so both need the same entries. A simulated log has
those of its environment and no others, and a published one with ``columns=()`` the transitions
alone; what a collector adds (``loc``, ``scale``, ``collector``) is left out by TorchRL's
``OfflineToOnlineTrainer`` and its hook, or by ``rows.select(...)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchrl_drpo.spelling import did_you_mean

from .published import PUBLISHED, published_log
from .replay import RecReplayBuffer

#: Simulated logs: name -> scenario.
SIMULATED = {"recsim-medium": "medium", "recsim-extreme": "extreme"}
#: What a simulated log can have beside its transitions.
_FURTHER_COLUMNS = ("item", "component", "latent_reward", "propensity")
_CHOICES = ("campaign", "behavior_policy", "category")


def load_log(name: str, root: Path | str | None = None, **options: Any) -> RecReplayBuffer:
    """Opens a named log; what ``load_dataset("rec:<name>", ...)`` calls.

    Args:
        name: a key of :data:`~.published.PUBLISHED` or :data:`SIMULATED`.
        root: folder of the published files; a simulated log needs none and stores its rows there
            if one is given.
        **options: for a published log ``converted`` (folder for the converted log), ``campaign``
            and ``behavior_policy`` (open-bandit), ``category`` (amazon-sid) and the options of
            :meth:`RecReplayBuffer.from_parquet`, such as ``test_days``, ``history`` and ``columns``
            (all by default); for a
            simulated one ``rows`` (3,000), ``seed`` (0), ``setting`` ("table") and ``columns``:
            what to keep beside the transitions, of ``"item"``, ``"component"``,
            ``"latent_reward"`` and ``"propensity"`` (a second per 3,000 rows). Both take
            TorchRL's, such as ``batch_size``. Rows of an online buffer, which they are joined
            with, have neither such columns nor an ``"index"``, so both are left out unless they
            are asked for (``sample_index=True``).

    Raises:
        ValueError: for an unknown name, a choice that the log does not have, a missing ``root``.
        FileNotFoundError: if the folder does not hold that log; says where to get it.

    Examples:
        >>> from torchrl.data.datasets import load_dataset
        >>> log = load_dataset("rec:recsim-medium", rows=50, batch_size=8)
        >>> log.sample()["observation"].shape
        torch.Size([8, 10])
    """
    options.setdefault("sample_index", False)
    if name in SIMULATED:
        return _simulate(SIMULATED[name], root, **options)
    if name not in PUBLISHED:
        known = sorted([*PUBLISHED, *SIMULATED])
        raise ValueError(
            f"no log {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    if root is None:
        raise ValueError(
            f"rec:{name} needs root=<folder of the published files>; download "
            f"{PUBLISHED[name].source}"
        )
    choices = {key: options.pop(key) for key in _CHOICES if key in options}
    files, schema = published_log(name, root, **choices)
    return RecReplayBuffer.from_parquet(
        files, schema, root=options.pop("converted", None), **options
    )


def _simulate(
    scenario: str,
    root: Path | str | None,
    rows: int = 3_000,
    seed: int = 0,
    setting: str = "table",
    columns: Sequence[str] = (),
    propensity: bool = False,
    **options: Any,
) -> RecReplayBuffer:
    columns = dict.fromkeys([*columns, *(["propensity"] if propensity else [])])
    unknown = sorted({*columns} - {*_FURTHER_COLUMNS})
    if unknown:
        raise ValueError(f"a simulated log has no columns {unknown}; choose of {_FURTHER_COLUMNS}")
    # By name, as TorchRL's own registry does it: this layer lies below the environments.
    environments = importlib.import_module("torchrl_drpo.envs")
    env = environments.RecSimEnv(setting, seed=seed)
    log = env.simulate_log(rows, scenario, seed=seed, propensity="propensity" in columns)
    log = log.select("observation", "action", "next", *columns)
    return RecReplayBuffer.from_tensordict(log, root=root, **options)
