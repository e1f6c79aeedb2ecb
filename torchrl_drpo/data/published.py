"""Published logs by name: their files in a folder, what the columns mean, where to get them.

Nothing is downloaded. Where a folder does not hold a log, the error says what to get, and where.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torchrl_drpo.spelling import did_you_mean

from .schema import ItemTable, LogSchema


class Published(NamedTuple):
    """One published log.

    Attributes:
        find: from its folder (and choices) to its files and their schema.
        source: what to download, and from where.
    """

    find: Callable[..., tuple[list[str], LogSchema]]
    source: str


def published_log(name: str, root: Path | str, **choices: str) -> tuple[list[str], LogSchema]:
    """The files of a published log, and what their columns mean.

    Args:
        name: a key of :data:`PUBLISHED`, with or without the prefix ``rec:``.
        root: folder of the files as they are published, or the one around it.
        **choices: ``campaign`` and ``behavior_policy`` (open-bandit), ``category`` (amazon-sid).

    Raises:
        ValueError: for an unknown name, or a choice that the log does not have.
        FileNotFoundError: if the folder does not hold it; says what to download, and from where.

    Examples:
        >>> published_log("rec:movielens", "/nowhere")
        Traceback (most recent call last):
        FileNotFoundError: /nowhere does not hold movielens: no ratings.csv or */ratings.csv...
    """
    log = find_published(name)
    name = name.removeprefix("rec:")
    taken = list(inspect.signature(log.find).parameters)[1:]
    foreign = [key for key in choices if key not in taken]
    if foreign:
        raise ValueError(f"rec:{name} has no choice of {foreign[0]!r}; it takes {taken or 'none'}")
    try:
        return log.find(Path(root), **choices)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{root} does not hold {name}: {error}; download {log.source}, unpack it, and name its "
            "folder as root"
        ) from None


def find_published(name: str) -> Published:
    """The log of that name; raises ``ValueError`` where there is none."""
    plain = name.removeprefix("rec:")
    if plain not in PUBLISHED:
        near = did_you_mean(plain, PUBLISHED)
        raise ValueError(f"no log {plain!r}{near}; there are {', '.join(sorted(PUBLISHED))}")
    return PUBLISHED[plain]


def _files(root: Path, *patterns: str) -> list[str]:
    """The files of the first pattern that matches anything, sorted by name."""
    for pattern in patterns:
        found = sorted(str(path) for path in root.glob(pattern))
        if found:
            return found
    raise FileNotFoundError(f"no {' or '.join(patterns)} in it")


def _kuairand(root: Path) -> tuple[list[str], LogSchema]:
    """KuaiRand-Pure's standard log: the published CSV files, or Parquet files of their columns."""
    csv = "log_standard_*.csv"
    files = _files(root, "log_standard_*.parquet", csv, f"data/{csv}", f"*/data/{csv}")
    schema = LogSchema.preset("kuairand")
    if not files[0].endswith(".csv"):
        return files, schema
    basic = ItemTable("video_features_basic_pure.csv", "video_id", required=False)
    return files, schema.replace(items=basic, initial_history=None)


def _open_bandit(
    root: Path, campaign: str = "all", behavior_policy: str = "random"
) -> tuple[list[str], LogSchema]:
    """One of Open Bandit's six logs: a campaign (all, men, women) and a policy (random, bts)."""
    parquet = f"{behavior_policy}_{campaign}.parquet"
    csv = f"{behavior_policy}/{campaign}/{campaign}.csv"
    return _files(root, parquet, csv, f"*/{csv}"), LogSchema.preset("open-bandit")


def _movielens(root: Path) -> tuple[list[str], LogSchema]:
    """A MovieLens release with ``ratings.csv`` (latest-small, 20M, 25M, 32M)."""
    return _files(root, "ratings.csv", "*/ratings.csv"), LogSchema.preset("movielens")


def _amazon_sid(
    root: Path, category: str = "Industrial_and_Scientific"
) -> tuple[list[str], LogSchema]:
    """MiniOneRec's splits of one Amazon category with three-level semantic IDs."""
    files = _files(root, f"{category}.*test.parquet")
    codes = ("code_0", "code_1", "code_2")
    table = ItemTable(f"{category}.items.parquet", "item_id", codes=codes)
    return files, LogSchema.preset("amazon-sid").replace(items=table)


#: Published logs by name.
PUBLISHED: dict[str, Published] = {
    "kuairand-pure": Published(
        _kuairand, "KuaiRand-Pure.tar.gz from https://zenodo.org/records/10439422 (kuairand.com)"
    ),
    "open-bandit": Published(
        _open_bandit, "the Open Bandit Dataset from https://research.zozo.com/data.html"
    ),
    "movielens": Published(
        _movielens,
        "ml-latest-small.zip (or ml-32m.zip) from https://grouplens.org/datasets/movielens/",
    ),
    "amazon-sid": Published(
        _amazon_sid,
        "data/Amazon of https://github.com/AkaliKong/MiniOneRec, whose rows are to be Parquet",
    ),
}
