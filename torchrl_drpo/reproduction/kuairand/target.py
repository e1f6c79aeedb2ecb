"""``drpo reproduce kuairand``: every objective on a real log, each along its own strength.

A run takes 1,000 steps of 256 rows. The cell ``schedule`` trains one of them on the first look's
1,200 steps of 1,024 rows, five times the work, and ``precision`` some in float32: the section
shows what either changes. The cells ``reward`` fit what the objectives in ``-q`` and ``-a``,
``guided`` and the tilts follow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torchrl_drpo.reproduction.kuairand.methods import METHODS
from torchrl_drpo.reproduction.kuairand.paths import Method
from torchrl_drpo.reproduction.kuairand.reward import fit
from torchrl_drpo.reproduction.kuairand.runs import ends, train
from torchrl_drpo.reproduction.kuairand.section import LOG, section
from torchrl_drpo.reproduction.target import Cell, Options, Target

NAME = "kuairand"
#: More would cost more than they tell: the intervals of five seeds are narrow beside the effects.
MOST_SEEDS = 5
#: A seed that reports nothing.
TUNING_SEED = 1000
#: Of :func:`train`: 2 serves what it trained in several ways.
VERSION = 2

RUN = {"steps": 1_000, "batch_size": 256, "learning_rate": 5e-3}
#: Of the first look at this log.
LONG_RUN = {"steps": 1_200, "batch_size": 1_024, "learning_rate": 2e-3}
QUICK_RUN = {"steps": 5, "batch_size": 64, "learning_rate": 5e-3}
QUICK_ROWS, QUICK_REWARD = 500, {"steps": 5, "max_rows": 2_000}
#: What is trained again in float32; and the first, five times as dear, on the long schedule.
CHECKED = (("BC", 0.0), ("taper", 1.0))


def cell_name(part: str, method: str, strength: float) -> str:
    """The name of a training cell.

    Example:
        >>> cell_name("test", "top kappa, uniform", 0.25)
        'test-top-kappa-uniform-0.25'
    """
    return f"{part}-{re.sub('[^a-z0-9]+', '-', method.lower())}-{strength:g}"


def strengths(method: Method, options: Options) -> tuple[float, ...]:
    """The strengths to train: all, or in a quick run the first one."""
    return method.values[:1] if options.quick else method.values


def cells(options: Options) -> Sequence[Cell]:
    """One cell a method, strength and part of the log, and what all share; none without a log."""
    if options.logs is None:
        return []
    rows = QUICK_ROWS if options.quick else None
    run = QUICK_RUN if options.quick else RUN
    reward = QUICK_REWARD if options.quick else {}
    common = {"logs": str(options.logs), "device": options.device, "reward": reward}

    def cell(part: str, method: str, strength: float, kind: str | None = None, **over: Any) -> Cell:
        seeds = [TUNING_SEED]
        if part == "test":
            seeds = list(range(min(options.seeds, MOST_SEEDS)))
        settings = {"part": part, "name": method, "strength": strength, "seeds": seeds}
        # Which precision is fast is this machine's business, and not part of a cell's identity.
        settings |= {"run": run, "precision": "auto", "rows": rows} | common | over
        return Cell(NAME, cell_name(kind or part, method, strength), train, settings, VERSION)

    out = [Cell(NAME, "ends", ends, {"logs": common["logs"], "rows": rows})]
    parts = ("tuning", "test")
    out += [Cell(NAME, f"reward-{part}", fit, {"part": part} | common) for part in parts]
    out += [
        cell(part, method.name, value)
        for method in METHODS
        for value in strengths(method, options)
        for part in parts
    ]
    if not options.quick:
        out += [cell("tuning", *one, kind="precision", precision="float32") for one in CHECKED]
        out += [cell("tuning", *CHECKED[0], kind="schedule", run=LONG_RUN)]
    return out


TARGET = Target(
    name=NAME,
    summary="every objective on the KuaiRand log (--logs), hit rate against lift within tabs",
    cells=cells,
    section=section,
    needs=LOG,
)
