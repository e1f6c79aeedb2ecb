"""Target ``geometry``: what the simulator's catalogue and its rewards look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.results import interval
from torchrl_drpo.reproduction.simulator.runs import build_setup
from torchrl_drpo.reproduction.simulator.simulated import axes_of, verdict
from torchrl_drpo.reproduction.simulator.worlds import Worlds
from torchrl_drpo.reproduction.target import (
    Cell,
    Claim,
    Figure,
    Options,
    Results,
    Section,
    Target,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SETTINGS, SCENARIOS = ("table", "collapse"), ("medium", "extreme")
LOGGERS = ("expert", "popularity", "random")
BINS = 25
POINTS = 400
_COLOURS = dict(zip(LOGGERS, ("#009E73", "#CC79A7", "#999999"), strict=True))


def cells(options: Options) -> Sequence[Cell]:
    """Every setting with every mixture."""
    size = {"log_size": 300, "changes": {"num_items": 300}} if options.quick else {}
    seeds = list(range(2 if options.quick else options.seeds))
    return [
        Cell(
            "geometry",
            f"{setting}.{scenario}",
            describe_world,
            {"setup": {"setting": setting, "scenario": scenario, **size}, "seeds": seeds},
        )
        for setting in SETTINGS
        for scenario in SCENARIOS
    ]


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


def section(options: Options, results: Results) -> Section:
    """The catalogue's spectrum, rewards by logger, and how like Zipf's law they are."""
    table = results["table.extreme"]["result"]["numbers"]
    rank, good = mean_interval(table["effective_rank"]), mean_interval(table["good_rows"])
    text = (
        "The simulator's catalogue is a mixture of ten Gaussian clusters in 128 dimensions. In the "
        f"table setting its variance is spread over {rank.mean:.0f} effective directions (one over "
        f"the summed squares of the variance shares); in the extreme mixture {good.mean:.1%} of "
        "the rows earn more than half of the best latent reward. Zipf's law is looked for twice: "
        "in how often the popularity logger shows an item, and in the sorted rewards."
    )
    return Section(
        "Geometry and rewards of the simulator",
        text,
        tables=[_table(results)],
        figures=[
            Figure(
                "geometry",
                f"Left: first two principal coordinates of {POINTS} items, coloured by the nearest "
                "centre (table setting, seed 0). Middle: cumulative share of the variance. Right: "
                "sorted latent rewards of a log; Zipf's law would be a straight line of slope -1.",
                lambda canvas: _draw_items(canvas, results),
                size=(11.0, 3.4),
            ),
            Figure(
                "rewards",
                "Density of latent rewards by logger.",
                lambda canvas: _draw_rewards(canvas, results),
            ),
        ],
        claims=_claims(results),
    )


def _table(results: Results) -> Table:
    rows = []
    for words, name in (
        ("effective directions of the catalogue", "effective_rank"),
        ("variance in the first ten directions", "first_ten"),
        ("mean latent reward", "mean_reward"),
        ("rows above half of the best reward", "good_rows"),
        ("skewness of rewards", "skewness"),
        ("rank exponent of rewards, top tenth", "reward_exponent"),
        ("rank exponent of popular items", "popularity_exponent"),
    ):
        cells_ = (f"{s}.{m}" for s in SETTINGS for m in SCENARIOS)
        rows.append([words, *(interval(results[c]["result"]["numbers"][name]) for c in cells_)])
    header = [f"{s}, {m}" for s in SETTINGS for m in SCENARIOS]
    return Table(
        "Worlds and logs",
        ["", *header],
        rows,
        note="rank exponent: minus the slope of log value against log rank; 1 for Zipf's law.",
    )


def _claims(results: Results) -> list[Claim]:
    def of(setting: str, scenario: str, name: str) -> float:
        return mean_interval(results[f"{setting}.{scenario}"]["result"]["numbers"][name]).mean

    worlds = [(s, m) for s in SETTINGS for m in SCENARIOS]
    few = [of(s, m, "skewness") > 0 and of(s, m, "good_rows") < 0.2 for s, m in worlds]
    zipf = [0.5 <= of(s, m, "reward_exponent") <= 2 for s, m in worlds]
    popular = [0.5 <= of(s, m, "popularity_exponent") <= 2 for s, m in worlds]
    where = "arXiv 2602.10430, section 2 and appendix"

    def each(name: str, form: str) -> str:
        return "; ".join(f"{s}, {m} {of(s, m, name):{form}}" for s, m in worlds)

    return [
        Claim(
            "Rewards are few good among many poor",
            where,
            verdict(few),
            f"rows above half of the best reward: {each('good_rows', '.1%')}; held below 20% with "
            "positive skewness",
        ),
        Claim(
            "Sorted rewards follow Zipf's law",
            where,
            verdict(zipf),
            f"rank exponents {each('reward_exponent', '.2f')}; held from 0.5 to 2. The reward is "
            "bounded by 1, so its top cannot be a power law",
        ),
        Claim(
            "Items of the popularity logger are Zipfian",
            where,
            verdict(popular),
            f"rank exponents {each('popularity_exponent', '.2f')}; held from 0.5 to 2",
        ),
    ]


def _draw_items(canvas: Canvas, results: Results) -> None:
    left, middle, right = axes_of(canvas, 3)
    points = results["table.extreme"]["result"]["points"]
    x, y, centre = zip(*points, strict=True)
    left.scatter(x, y, c=centre, cmap="tab10", s=5)
    left.set_title("items", fontsize=10)
    for setting, colour in zip(SETTINGS, ("#0072B2", "#D55E00"), strict=True):
        result = results[f"{setting}.extreme"]["result"]
        total = torch.tensor(result["spectrum"]).cumsum(0).tolist()
        middle.plot(range(1, len(total) + 1), total, color=colour, label=setting)
        for scenario, style in zip(SCENARIOS, ("--", "-"), strict=True):
            ranked = results[f"{setting}.{scenario}"]["result"]["ranked"]
            right.loglog(*zip(*ranked, strict=True), style, color=colour)
    middle.set_title("cumulative variance by direction", fontsize=10)
    middle.legend(fontsize=7)
    right.set_title("reward by rank (solid: extreme)", fontsize=10)


def _draw_rewards(canvas: Canvas, results: Results) -> None:
    for axes, setting in zip(axes_of(canvas, 2), SETTINGS, strict=True):
        result = results[f"{setting}.medium"]["result"]
        for name, density in result["histograms"].items():
            axes.stairs(density, result["edges"], color=_COLOURS[name], label=name)
        axes.set_title(f"latent reward, {setting} setting", fontsize=10)
    canvas.axes[0].legend(fontsize=7)


TARGET = Target("geometry", "the simulator's catalogue and rewards", cells, section)
