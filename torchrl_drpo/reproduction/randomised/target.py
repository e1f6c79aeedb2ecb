"""``drpo reproduce randomised``: what learned policies are worth under uniform exposure.

A cell is a seed on a file: it fits the reward model once, trains every policy, and judges all that
is served of them. Files of 50,000 self-selected ratings and more take the longer schedule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrl_drpo.files import digest
from torchrl_drpo.reproduction.randomised.ratings import read_ratings
from torchrl_drpo.reproduction.randomised.runs import run
from torchrl_drpo.reproduction.randomised.section import FILES, section
from torchrl_drpo.reproduction.target import Cell, Options, Target

NAME = "randomised"

Numbers = Mapping[str, Any]
#: ``kuairand``'s, looked at every 30 steps.
TRAINING: Numbers = {
    "steps": 300, "batch_size": 256, "learning_rate": 5e-3, "evaluate_every": 30,
}  # fmt: skip
LONG_TRAINING: Numbers = TRAINING | {"steps": 1_500, "batch_size": 1_024, "evaluate_every": 150}
LONG_FROM = 50_000
REWARD: Numbers = {"folds": 5, "batch_size": 256, "learning_rate": 1e-3}
QUICK_TRAINING: Numbers = TRAINING | {"steps": 2, "evaluate_every": 1}
QUICK_REWARD: Numbers = REWARD | {"folds": 2, "steps": 2}
QUICK_SEEDS = 2


def cells(options: Options) -> Sequence[Cell]:
    """One cell a file and seed; none without files.

    Raises:
        ValueError: for a file that does not hold such ratings, or two of one name.
    """
    names = [name_of(path) for path in options.ratings]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"ratings: two files are called {name!r}; rename one of them")
    seeds = QUICK_SEEDS if options.quick else options.seeds
    out = []
    for name, path in zip(names, options.ratings, strict=True):
        long = len(read_ratings(path).train) >= LONG_FROM  # which checks the file, too
        training = QUICK_TRAINING if options.quick else LONG_TRAINING if long else TRAINING
        common = {
            "name": name,
            "path": str(path),
            "digest": digest(path),
            "training": dict(training),
            "reward": dict(QUICK_REWARD if options.quick else REWARD),
        }
        out += [Cell(NAME, f"{name}-seed-{n}", run, common | {"seed": n}) for n in range(seeds)]
    return out


def name_of(path: Path) -> str:
    """What a file's ratings are called: by the folder, where the file says no more than that.

    Example:
        >>> name_of(Path("data/coat/ratings.parquet")), name_of(Path("Yahoo R3.csv"))
        ('coat', 'Yahoo-R3')
    """
    stem = path.parent.name if path.stem == "ratings" else path.stem
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "ratings"


TARGET = Target(
    name=NAME,
    summary="what policies are worth on ratings of items shown at random (--ratings)",
    cells=cells,
    section=section,
    needs=FILES,
    option="ratings",
)
