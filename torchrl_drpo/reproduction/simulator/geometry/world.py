"""A world and its log in numbers: the catalogue's spectrum, rewards by logger, exponents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.reproduction.simulator.runs import build_setup
from torchrl_drpo.reproduction.simulator.worlds import Worlds

SETTINGS, SCENARIOS = ("table", "collapse"), ("medium", "extreme")
LOGGERS = ("expert", "popularity", "random")
BINS = 25
POINTS = 400


def describe_world(*, setup: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A cell: catalogue and log of every seed, in numbers.

    Returns:
        ``spectrum``: share of the catalogue's variance by principal direction, mean over seeds;
        ``points``: first two coordinates of some items of the first seed, with their nearest
        centre; ``histograms`` of latent rewards by logger; ``numbers`` of each seed.
    """
    worlds = Worlds(build_setup({**setup, "users": 16}), seeds)
    spectra, numbers = [], []
    for world, log in zip(worlds.worlds, worlds.log, strict=True):
        shares = spectrum(unit(world.items))
        spectra.append(shares)
        latent, popular = log["latent_reward"], log["component"] == 1
        chosen = torch.unique(log["action"][popular], dim=0, return_counts=True)[1]
        numbers.append(
            {
                "effective_rank": float(1 / shares.square().sum()),
                "first_ten": float(shares[:10].sum()),
                "mean_reward": float(latent.mean()),
                "good_rows": float((latent > 0.5 * latent.max()).float().mean()),
                "skewness": skewness(latent),
                "reward_exponent": rank_exponent(latent),
                "popularity_exponent": rank_exponent(chosen.float()),
            }
        )
    first, log = worlds.worlds[0], worlds.log[0]
    items = unit(first.items)
    axes = torch.linalg.svd(items - items.mean(0), full_matrices=False)[2][:2]
    shown = items[:POINTS] - items.mean(0)
    nearest = (items[:POINTS] @ first.centres.T).argmax(-1)
    edges = torch.linspace(0, 1, BINS + 1)
    return {
        "spectrum": [round(float(v), 6) for v in torch.stack(spectra).mean(0)],
        "points": [
            [round(float(x), 3), round(float(y), 3), int(c)]
            for (x, y), c in zip(shown @ axes.T, nearest, strict=True)
        ],
        "edges": [round(float(e), 4) for e in edges],
        "histograms": {
            name: _histogram(worlds.log["latent_reward"], worlds.log["component"] == number)
            for number, name in enumerate(LOGGERS)
        },
        "ranked": _ranked(log["latent_reward"]),
        "numbers": {name: [round(n[name], 5) for n in numbers] for name in numbers[0]},
    }


def spectrum(items: Tensor) -> Tensor:
    """Share of the variance along each principal direction of rows ``[V, d]``, falling.

    Example:
        >>> spectrum(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -0.5]]))
        tensor([0.8000, 0.2000])
    """
    values = torch.linalg.svdvals(items - items.mean(0)).square()
    return values / values.sum()


def skewness(values: Tensor) -> float:
    """Third standardised moment; above 0 where a few are far above the rest.

    Example:
        >>> skewness(torch.tensor([0.0, 0.0, 0.0, 4.0])) > 0
        True
    """
    centred = values.double() - values.double().mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


def rank_exponent(values: Tensor) -> float:
    """Minus the slope of log value against log rank, over the top tenth: 1 for Zipf's law.

    Example:
        >>> round(rank_exponent(1 / torch.arange(1.0, 1001.0)), 3)
        1.0
    """
    top = values.double().sort(descending=True).values[: max(3, len(values) // 10)]
    y = top.clamp_min(1e-12).log()
    x = torch.arange(1, len(top) + 1, dtype=torch.double).log()
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / (x * x).sum())


def _histogram(values: Tensor, chosen: Tensor) -> list[float]:
    counts = torch.histc(values[chosen], BINS, 0.0, 1.0)
    return [round(float(v), 4) for v in counts / counts.sum().clamp_min(1) * BINS]


def _ranked(values: Tensor) -> list[list[float]]:
    """A few (rank, value) of the sorted values, evenly spaced in log rank."""
    ordered = values.sort(descending=True).values
    ranks = sorted({int(r) for r in torch.logspace(0, math.log10(len(ordered)), 40)})
    return [[rank, round(float(ordered[rank - 1]), 4)] for rank in ranks]
