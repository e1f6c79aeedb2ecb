"""Named logs: ``load_dataset("rec:kuairand-pure", root=...)`` through TorchRL's registry.

Importing :class:`~torchrl_drpo.data.RecReplayBuffer` or :func:`load_log` registers the prefix
``rec``. Published logs are read from a local folder in the formats in which they are published
(nothing is downloaded); simulated ones are made on the spot. They work wherever TorchRL takes a
data set, as in
``OfflineToOnlineReplayBuffer("rec:movielens", root=..., batch_size=256, online_capacity=10_000)``.
TorchRL concatenates offline and online rows, so both need the same entries. A simulated log has
those of its environment and no others; what a collector adds (``loc``, ``scale``, ``collector``) is
left out by TorchRL's ``OfflineToOnlineTrainer`` and its hook, or by ``rows.select(...)``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchrl_drpo.spelling import did_you_mean

from .replay import RecReplayBuffer
from .schema import ItemTable, LogSchema

_Published = Callable[..., tuple[list[str], LogSchema]]


def _files(root: Path | str, patterns: list[str], what: str) -> list[str]:
    """The files of the first pattern that matches anything, sorted by name."""
    for pattern in patterns:
        found = sorted(str(path) for path in Path(root).glob(pattern))
        if found:
            return found
    raise FileNotFoundError(
        f"{root} does not hold {what}: nothing matches {patterns}; download it from its publisher "
        "and pass its folder as root"
    )


def _kuairand(root: Path | str) -> tuple[list[str], LogSchema]:
    """KuaiRand-Pure's standard log: the published CSV files, or Parquet files of their columns."""
    patterns = ["log_standard_*.parquet", "log_standard_*.csv", "data/log_standard_*.csv"]
    files = _files(root, patterns, "KuaiRand-Pure")
    if not files[0].endswith(".csv"):
        return files, LogSchema.preset("kuairand")
    basic = ItemTable("video_features_basic_pure.csv", "video_id", required=False)
    schema = LogSchema.preset("kuairand")
    return files, schema.replace(items=basic, initial_history=None)


def _open_bandit(
    root: Path | str, campaign: str = "all", behavior_policy: str = "random"
) -> tuple[list[str], LogSchema]:
    """One of Open Bandit's six logs: a campaign (all, men, women) and a policy (random, bts)."""
    parquet = f"{behavior_policy}_{campaign}.parquet"
    csv = f"{behavior_policy}/{campaign}/{campaign}.csv"
    files = _files(root, [parquet, csv], f"Open Bandit's {behavior_policy} {campaign} log")
    return files, LogSchema.preset("open-bandit")


def _movielens(root: Path | str) -> tuple[list[str], LogSchema]:
    """A MovieLens release with ``ratings.csv`` (latest-small, 20M, 25M, 32M)."""
    files = _files(root, ["ratings.csv", "*/ratings.csv"], "MovieLens ratings")
    return files, LogSchema.preset("movielens")


def _amazon_sid(
    root: Path | str, category: str = "Industrial_and_Scientific"
) -> tuple[list[str], LogSchema]:
    """MiniOneRec's splits of one Amazon category with three-level semantic IDs."""
    files = _files(root, [f"{category}.*test.parquet"], f"Amazon {category}")
    codes = ("code_0", "code_1", "code_2")
    table = ItemTable(f"{category}.items.parquet", "item_id", codes=codes)
    return files, LogSchema.preset("amazon-sid").replace(items=table)


#: Published logs: name -> function from the folder (and choices) to files and schema.
PUBLISHED: dict[str, _Published] = {
    "kuairand-pure": _kuairand,
    "open-bandit": _open_bandit,
    "movielens": _movielens,
    "amazon-sid": _amazon_sid,
}
#: Simulated logs: name -> scenario.
SIMULATED = {"recsim-medium": "medium", "recsim-extreme": "extreme"}
#: What a simulated log can have beside its transitions.
_FURTHER_COLUMNS = ("item", "component", "latent_reward", "propensity")
_CHOICES = ("campaign", "behavior_policy", "category")


def load_log(name: str, root: Path | str | None = None, **options: Any) -> RecReplayBuffer:
    """Opens a named log; what ``load_dataset("rec:<name>", ...)`` calls.

    Args:
        name: a key of :data:`PUBLISHED` or :data:`SIMULATED`.
        root: folder of the published files; a simulated log needs none and stores its rows there
            if one is given.
        **options: for a published log ``converted`` (folder for the converted log), ``campaign``
            and ``behavior_policy`` (open-bandit), ``category`` (amazon-sid) and the options of
            :meth:`RecReplayBuffer.from_parquet`, such as ``test_days`` and ``history``; for a
            simulated one ``rows`` (3,000), ``seed`` (0), ``setting`` ("table") and ``columns``:
            what to keep beside the transitions, of ``"item"``, ``"component"``,
            ``"latent_reward"`` and ``"propensity"`` (a second per 3,000 rows). Both take
            TorchRL's, such as ``batch_size``. Rows of an online buffer, which they are joined
            with, have neither such columns nor an ``"index"``, so both are left out unless they
            are asked for (``sample_index=True``).

    Raises:
        ValueError: for an unknown name, a choice that the log does not have, a missing ``root``.
        FileNotFoundError: if the folder does not hold that log.

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
        raise ValueError(f"rec:{name} needs root=<folder of the published files>")
    choices = {key: options.pop(key) for key in _CHOICES if key in options}
    taken = list(inspect.signature(PUBLISHED[name]).parameters)[1:]
    foreign = [key for key in choices if key not in taken]
    if foreign:
        raise ValueError(f"rec:{name} has no choice of {foreign[0]!r}; it takes {taken or 'none'}")
    files, schema = PUBLISHED[name](root, **choices)
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
