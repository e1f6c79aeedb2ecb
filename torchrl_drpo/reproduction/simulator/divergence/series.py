"""Numbers of the cells of ``divergence``: what was seen at each look, and in the last of them."""

from __future__ import annotations

import math

from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.reproduction.target import Results

SETTINGS = ("table", "collapse")
TRAINED = ("positive-only", "APG")


def looks(results: Results, cell: str, name: str) -> list[list[float]]:
    """``[look][seed]``; NaN where a number was not finite."""
    series = results[cell]["result"]["series"][name]
    return [[math.nan if v is None else v for v in look] for look in series]


def window(results: Results, cell: str, name: str) -> list[float]:
    """Mean over the looks of the last fifth, of each seed."""
    rows = looks(results, cell, name)[late_window(results[cell]["result"]["steps"])]
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def ratio(results: Results, cell: str, part: str) -> list[float]:
    """Late repulsion over attraction in ``"mean"`` or ``"sigma"``, of each seed."""
    pairs = zip(
        window(results, cell, f"negative_{part}"),
        window(results, cell, f"positive_{part}"),
        strict=True,
    )
    return [negative / positive for negative, positive in pairs]


def growth(results: Results, cell: str) -> list[float]:
    """Norm of the negatives' whole gradient, late over before the first step, of each seed."""
    parts = [f"negative_{part}" for part in ("mean", "sigma")]
    first = [looks(results, cell, name)[0] for name in parts]
    last = [window(results, cell, name) for name in parts]
    return [
        math.hypot(*after) / math.hypot(*before)
        for after, before in zip(zip(*last, strict=True), zip(*first, strict=True), strict=True)
    ]
