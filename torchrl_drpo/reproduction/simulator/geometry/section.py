"""What target ``geometry`` shows, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.formats import spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.geometry.claims import claims
from torchrl_drpo.reproduction.simulator.geometry.figures import draw_items, draw_rewards
from torchrl_drpo.reproduction.simulator.geometry.world import POINTS, SCENARIOS, SETTINGS
from torchrl_drpo.reproduction.target import Figure, Options, Results, Section


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
                lambda canvas: draw_items(canvas, results),
                size=(11.0, 3.4),
            ),
            Figure(
                "rewards",
                "Density of latent rewards by logger.",
                lambda canvas: draw_rewards(canvas, results),
            ),
        ],
        claims=claims(results),
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
        rows.append([words, *(spread(results[c]["result"]["numbers"][name]) for c in cells_)])
    header = [f"{s}, {m}" for s in SETTINGS for m in SCENARIOS]
    return Table(
        "Worlds and logs",
        ["", *header],
        rows,
        note="rank exponent: minus the slope of log value against log rank; 1 for Zipf's law.",
    )
