"""What was claimed of going online, and what the seeds say."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.report.formats import signed
from torchrl_drpo.reproduction.published import ONLINE
from torchrl_drpo.reproduction.simulator.online.results import (
    COMPARED,
    FILTERED,
    NUMBERS,
    gain,
    seen,
)
from torchrl_drpo.reproduction.simulator.results import late, mean
from torchrl_drpo.reproduction.target import Claim, Results, verdict

_WHERE = "arXiv 2602.10430, offline-to-online"


def claims(results: Results) -> list[Claim]:
    """Who ends where, what passes the filter, and what serving is worth."""
    base = late(results, "DRPO")
    others = [name for name in COMPARED if name != "DRPO"]
    behind = {name: paired_interval(base, late(results, name)) for name in others}
    order = sorted(COMPARED, key=lambda name: -mean(results, name))
    published = sorted(COMPARED, key=lambda name: -ONLINE[name])
    starts = {name: mean_interval(seen(results, name, "passed")[1][0]) for name in FILTERED}
    rises = {
        name: paired_interval(late(results, name, "passed"), seen(results, name, "passed")[1][0])
        for name in FILTERED
    }
    gains = {name: gain(results, name) for name in COMPARED}
    return [
        Claim(
            "DRPO ends above IQL, AWR and AsymRE",
            _WHERE,
            verdict([behind[name].above() for name in COMPARED if name not in FILTERED]),
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
            verdict([found.above() for found in rises.values()]),
            "; ".join(f"{name} {found.mean:+.1%}" for name, found in rises.items()),
        ),
        Claim(
            "Every method gains by going online",
            _WHERE,
            verdict([found.above() for found in gains.values()]),
            "; ".join(f"{name} {signed(found)}" for name, found in gains.items()),
        ),
    ]
