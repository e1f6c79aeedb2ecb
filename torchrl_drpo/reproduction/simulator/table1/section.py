"""What target ``table1`` shows, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import corrected_p_values, paired_interval
from torchrl_drpo.report.formats import signed, spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.published import ECPM, TABLE1
from torchrl_drpo.reproduction.simulator.results import end, gap, late, mean
from torchrl_drpo.reproduction.simulator.table1 import closest
from torchrl_drpo.reproduction.simulator.table1.claims import claims
from torchrl_drpo.reproduction.simulator.table1.figures import draw_curves, draw_rewards
from torchrl_drpo.reproduction.simulator.table1.results import DISTANCE, SCENARIOS, SHOWN, name_of
from torchrl_drpo.reproduction.target import Figure, Options, Results, Section


def section(options: Options, results: Results) -> Section:
    """The table again, and how near it is."""
    settings = results[name_of("DRPO", "medium")]["settings"]
    rewards = {s: {name: late(results, name_of(name, s)) for name in SHOWN} for s in SCENARIOS}
    ends = [
        f"{end(results, name_of('DRPO', s), 'random'):.3f} and "
        f"{end(results, name_of('DRPO', s), 'oracle'):.3f} ({s})"
        for s in SCENARIOS
    ]
    text = (
        f"Ten methods on the table setting, {len(settings['seeds'])} seeds (world, log, users and "
        f"first weights), {settings['schedule']['steps']:,} steps of Adam at 3e-4 on batches of "
        "320, one network for all: 10 -> 128 ReLU -> 128, one log sigma vector. No number was "
        "tuned on these seeds. Numbers are means over the evaluations of the last fifth of a run, "
        "on 1,024 held-out users; intervals are 95% t intervals over seeds, differences to DRPO "
        "are paired by seed, p values are Holm's over the nine methods. A random item and the best "
        f"item earn {', '.join(ends)}."
    )
    return Section(
        "Table 1",
        text,
        tables=[
            *(_table(results, scenario, rewards[scenario]) for scenario in SCENARIOS),
            closest.table(results),
        ],
        figures=[
            Figure(
                "table1",
                "Reward of the retrieved item with 95% intervals; crosses: the published table; "
                "dotted: a random item.",
                lambda canvas: draw_rewards(canvas, results),
            ),
            Figure(
                "table1-curves",
                "Reward of the retrieved item along training, mean over seeds.",
                lambda canvas: draw_curves(canvas, results),
            ),
        ],
        claims=[
            *claims(rewards, {s: late(results, name_of("APG", s), DISTANCE) for s in SCENARIOS}),
            closest.claim(results),
        ],
    )


def _table(results: Results, scenario: str, rewards: dict[str, list[float]]) -> Table:
    base = rewards["DRPO"]
    others = {name: values for name, values in rewards.items() if name != "DRPO"}
    p = corrected_p_values(others, base)
    rows = []
    for name in SHOWN:
        cell, published = name_of(name, scenario), TABLE1[scenario].get(name)
        found = mean(results, cell)
        rows.append(
            [
                name,
                spread(rewards[name]),
                "" if published is None else f"{published:.3f}",
                "" if published is None else f"{gap(found, published):+.0%}",
                f"{ECPM * found:.2f}",
                "" if name == "DRPO" else signed(paired_interval(rewards[name], base)),
                "" if name == "DRPO" else f"{p[name]:.3f}",
                spread(late(results, cell, "raw_reward")),
                f"{mean(results, cell, DISTANCE):.2f}",
            ]
        )
    return Table(
        f"{scenario.capitalize()} mixture",
        ["method", "reward", "paper", "gap", "eCPM", "vs DRPO", "p (Holm)", "raw", "distance"],
        rows,
        emphasis=[SHOWN.index("DRPO")],
        note="reward: of the item nearest to the mean action; raw: of the mean action itself; "
        "distance: from the mean action to the best item's embedding, both over sqrt(d).",
    )
