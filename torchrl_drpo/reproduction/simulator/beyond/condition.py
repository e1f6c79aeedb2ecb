"""When uphill pays: its reward model's explained variance against that number's standard error.

A model is called doubtful where it explains less than twice its standard error, over rows: it is
what :func:`~torchrl_drpo.rewards.uphill_log` and ``drpo train`` warn of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torchrl_drpo.evaluation.statistics import Interval, mean_interval, paired_interval
from torchrl_drpo.report.formats import plus_minus, signed
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.beyond.compared import (
    IN_NOISE,
    NOISY,
    PLACES,
    POSITIVE,
    UPHILL,
    Place,
    cell_name,
)
from torchrl_drpo.reproduction.simulator.results import late
from torchrl_drpo.reproduction.target import Claim, Results, verdict


class _Model(NamedTuple):
    """Of each seed: what its model explains, and whether that is doubtful."""

    explained: list[float]
    doubtful: list[bool]


def sentence(results: Results) -> str:
    """How uphill fares where rewards are mostly noise."""
    gains = [
        f"{place} {signed(_gain(results, place))} (the model explains "
        f"{mean_interval(_model(results, place).explained).mean:.2%})"
        for place in NOISY
    ]
    return (
        "It wants a reward model that knows something: with noisier rewards, "
        f"{UPHILL} minus {POSITIVE} is {'; '.join(gains)}."
    )


def table(results: Results) -> Table:
    """Rewards where there is next to nothing to learn a model from."""
    others = [name for name in IN_NOISE if name != POSITIVE]
    rows = []
    for place in (*PLACES, *NOISY):
        model = _model(results, place)
        base = _rewards(results, POSITIVE, place)
        rows.append(
            [
                str(place),
                plus_minus(mean_interval(model.explained), ".4f"),
                f"{sum(model.doubtful)} of {len(model.doubtful)}",
                str(mean_interval(base)),
                *(signed(paired_interval(_rewards(results, name, place), base)) for name in others),
            ]
        )
    return Table(
        "What the reward model explains, and what it is worth",
        ["place", "model explains", "doubtful", POSITIVE, *(f"{name} minus it" for name in others)],
        rows,
        note="The model explains: its share of the variance of rewards that it has not seen. "
        "Doubtful: seeds where that is less than twice its standard error over rows.",
    )


def claims(results: Results) -> list[Claim]:
    """Whether the model's own numbers say where uphill pays."""
    found, words = [], []
    for place in (*PLACES, *NOISY):
        doubtful, gain = _model(results, place).doubtful, _gain(results, place)
        trusted = 2 * sum(doubtful) < len(doubtful)
        found.append(gain.above() if trusted else not gain.above())
        words.append(f"{place}: doubtful in {sum(doubtful)} of {len(doubtful)}, {signed(gain)}")
    warned, others = _by_seed(results)
    pays = [mean_interval(others).above()] if others else []
    fails = [not mean_interval(warned).above()] if warned else []
    return [
        Claim(
            f"{UPHILL} beats {POSITIVE} where most seeds' models explain at least twice their "
            "standard error, and nowhere else",
            "this project",
            verdict(found),
            "; ".join(words),
        ),
        Claim(
            f"Where rewards are noisy, {UPHILL} gains on {POSITIVE} in the seeds whose model is "
            "not doubtful, and does not in the others",
            "this project",
            verdict([*pays, *fails]),
            f"{', '.join(map(str, NOISY))}: {_said(others)} in the {len(others)} seeds that are "
            f"not doubtful, {_said(warned)} in the {len(warned)} that are",
        ),
    ]


def _by_seed(results: Results) -> tuple[list[float], list[float]]:
    """Uphill minus positive-only, seed by seed of the noisy places: doubtful ones, and others."""
    sides: tuple[list[float], list[float]] = [], []
    for place in NOISY:
        pairs = zip(
            _model(results, place).doubtful,
            _rewards(results, UPHILL, place),
            _rewards(results, POSITIVE, place),
            strict=True,
        )
        for doubtful, mine, base in pairs:
            sides[0 if doubtful else 1].append(mine - base)
    return sides


def _said(values: Sequence[float]) -> str:
    return signed(mean_interval(values)) if values else "nothing"


def _gain(results: Results, place: Place) -> Interval:
    return paired_interval(_rewards(results, UPHILL, place), _rewards(results, POSITIVE, place))


def _rewards(results: Results, name: str, place: Place) -> list[float]:
    return late(results, cell_name(name, place))


def _model(results: Results, place: Place) -> _Model:
    cell = cell_name(UPHILL, place)
    explained, errors = (
        late(results, cell, metric) for metric in ("explained_variance", "explained_variance_error")
    )
    pairs = zip(explained, errors, strict=True)
    return _Model(explained, [not share > 2 * error for share, error in pairs])
