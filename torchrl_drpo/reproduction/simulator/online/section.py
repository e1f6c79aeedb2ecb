"""Target ``online``: policies that go on learning from what they serve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.results import above, interval, signed, versus
from torchrl_drpo.reproduction.published import ECPM, ONLINE
from torchrl_drpo.reproduction.simulator.runs import METHODS
from torchrl_drpo.reproduction.simulator.served import run_served
from torchrl_drpo.reproduction.simulator.simulated import (
    COLOUR,
    axes_of,
    corrected,
    late,
    mean,
    verdict,
)
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

COMPARED = ("DRPO", "DRPO-Exp", "IQL", "AWR", "AsymRE")
FILTERED = ("DRPO", "DRPO-Exp")
NUMBERS = {"offline_steps": 500, "online_steps": 1_500, "serve_every": 10, "served": 32}
_WHERE = "arXiv 2602.10430, offline-to-online"


def cells(options: Options) -> Sequence[Cell]:
    """Every method on the extreme mixture's log, then on what it serves."""
    setup: dict[str, Any] = {"setting": "table", "scenario": "extreme"}
    numbers: dict[str, Any] = dict(NUMBERS)
    if options.quick:
        setup |= {"log_size": 300, "users": 32, "changes": {"num_items": 300}}
        numbers |= {"offline_steps": 4, "online_steps": 16, "serve_every": 4}
        numbers |= {"batch_size": 64, "evaluations": 5}
    settings = {"setup": setup, "seeds": list(range(2 if options.quick else options.seeds))}
    return [
        Cell(
            "online",
            name,
            run_served,
            {"method": METHODS[name], **settings, **numbers, "device": options.device},
        )
        for name in COMPARED
    ]


def seen(results: Results, name: str, metric: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and the seeds' numbers at each."""
    points = results[name]["result"]["curves"][metric]
    rows = [[math.nan if v is None else v for v in values] for _, values in points]
    return [step for step, _ in points], rows


def offline(results: Results, name: str) -> list[float]:
    """Reward of each seed at the last evaluation before anything was served."""
    steps, rows = seen(results, name, "retrieved_reward")
    before = [row for step, row in zip(steps, rows, strict=True) if step <= 0]
    return before[-1] if before else rows[0]


def section(options: Options, results: Results) -> Section:
    """Rewards before and after, and what became of the served rows."""
    settings = results["DRPO"]["settings"]
    _, passed = seen(results, "DRPO", "passed")
    start, last = mean_interval(passed[0]).mean, mean(results, "DRPO", "passed")
    gains = {name: versus(late(results, name), offline(results, name)) for name in COMPARED}
    text = (
        f"{settings['offline_steps']:,} steps on the extreme mixture's log, then "
        f"{settings['online_steps']:,} in which the policy serves {settings['served']} new users "
        f"every {settings['serve_every']} steps (a sampled action, the nearest item, its noisy "
        "reward) and half of every batch is drawn from what was served, through TorchRL's "
        f"`OfflineToOnlineReplayBuffer`. Table setting, {len(settings['seeds'])} seeds. Going "
        f"online is worth {signed(gains['DRPO'])} of reward to DRPO and {signed(gains['IQL'])} to "
        f"IQL. Of the served rows in a batch, {start:.0%} pass DRPO's filter at the start and "
        f"{last:.0%} at the end."
    )
    return Section(
        "Offline to online",
        text,
        tables=[_table(results)],
        figures=[
            Figure(
                "online",
                "Left: reward on held-out users; serving begins at step 0. Middle: latent reward "
                "of what was served, with the policy's own exploration. Right: share of the served "
                "rows with positive weight (DRPO, solid), and their share of all attraction "
                "(dashed).",
                lambda canvas: _draw(canvas, results),
                size=(11.0, 3.4),
            )
        ],
        claims=_claims(results),
    )


def _table(results: Results) -> Table:
    base = late(results, "DRPO")
    values = {name: late(results, name) for name in COMPARED if name != "DRPO"}
    p, rows = corrected(values, base), []
    for name in COMPARED:
        other = name != "DRPO"
        rows.append(
            [
                name,
                interval(offline(results, name)),
                interval(late(results, name)),
                f"{ECPM * mean(results, name):.2f}",
                f"{ONLINE[name]:.2f}",
                interval(late(results, name, "served_reward")),
                signed(versus(values[name], base)) if other else "",
                f"{p[name]:.3f}" if other else "",
                f"{mean(results, name, 'attraction'):.0%}",
            ]
        )
    header = ["method", "offline", "online", "eCPM", "paper", "served", "vs DRPO", "p (Holm)"]
    return Table(
        "Before and after going online",
        [*header, "attraction by served rows"],
        rows,
        emphasis=[0],
        note="offline: the last evaluation before serving; online: mean of the last fifth.",
    )


def _claims(results: Results) -> list[Claim]:
    base = late(results, "DRPO")
    behind = {name: versus(base, late(results, name)) for name in COMPARED if name != "DRPO"}
    order = sorted(COMPARED, key=lambda name: -mean(results, name))
    published = sorted(COMPARED, key=lambda name: -ONLINE[name])
    starts = {name: mean_interval(seen(results, name, "passed")[1][0]) for name in FILTERED}
    rises = {
        name: versus(late(results, name, "passed"), seen(results, name, "passed")[1][0])
        for name in FILTERED
    }
    gains = {name: versus(late(results, name), offline(results, name)) for name in COMPARED}
    return [
        Claim(
            "DRPO ends above IQL, AWR and AsymRE",
            _WHERE,
            verdict([above(behind[name]) for name in COMPARED if name not in FILTERED]),
            "DRPO minus " + "; ".join(f"{name} {signed(found)}" for name, found in behind.items()),
        ),
        Claim(
            f"The order is {' > '.join(published)}",
            _WHERE,
            verdict([order == published]),
            f"found {' > '.join(order)}",
        ),
        Claim(
            "The share of served rows that pass the filter starts near zero",
            _WHERE,
            verdict([found.mean < 0.05 for found in starts.values()]),
            "; ".join(f"{name} {found.mean:.1%}" for name, found in starts.items())
            + f" after {NUMBERS['offline_steps']} steps on the log; near: below 5%",
        ),
        Claim(
            "It rises as the policy improves",
            _WHERE,
            verdict([above(found) for found in rises.values()]),
            "; ".join(f"{name} {found.mean:+.1%}" for name, found in rises.items()),
        ),
        Claim(
            "Every method gains by going online",
            _WHERE,
            verdict([above(found) for found in gains.values()]),
            "; ".join(f"{name} {signed(found)}" for name, found in gains.items()),
        ),
    ]


def _draw(canvas: Canvas, results: Results) -> None:
    left, middle, right = axes_of(canvas, 3)
    for name in COMPARED:
        for axes, metric in ((left, "retrieved_reward"), (middle, "served_reward")):
            steps, rows = seen(results, name, metric)
            axes.plot(steps, [mean_interval(r).mean for r in rows], color=COLOUR[name], label=name)
        steps, rows = seen(results, name, "attraction")
        right.plot(steps, [mean_interval(r).mean for r in rows], "--", color=COLOUR[name])
    for name in FILTERED:
        steps, rows = seen(results, name, "passed")
        right.plot(steps, [mean_interval(r).mean for r in rows], color=COLOUR[name])
    left.axvline(0, color="#999999", linestyle=":")
    left.legend(fontsize=7)
    for axes, title in (
        (left, "reward, held-out users"),
        (middle, "reward of what was served"),
        (right, "served rows: passed, attraction"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("steps since serving began")


TARGET = Target("online", "offline-to-online learning, and what passes the filter", cells, section)
