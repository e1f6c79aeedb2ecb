"""Table 1 once more, in the simulator setting that comes closest to the published numbers.

The paper gives neither the log's size nor the noise of the observed rewards. The table setting
(3,000 rows, noise .13) is this project's first reading of it. This one was looked for afterwards,
on seeds 50 to 52, with 3,000 steps: of 6,000 rows with noise .13 and .3, 5,000 with .45 and 4,500
with .6 it had the smallest largest gap.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.formats import spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.published import TABLE1
from torchrl_drpo.reproduction.simulator.results import TOLERANCE, gap, late
from torchrl_drpo.reproduction.simulator.runs import METHODS, method_cell
from torchrl_drpo.reproduction.simulator.table1.claims import REQUIRED
from torchrl_drpo.reproduction.target import Cell, Claim, Options, Results, verdict

LOG_SIZE, REWARD_NOISE = 5_000, 0.45


def cells(options: Options) -> Sequence[Cell]:
    """The methods whose published rewards an honest implementation should come to."""
    return [
        method_cell(
            "table1",
            _name(name, scenario),
            METHODS[name],
            {
                "setting": "table",
                "scenario": scenario,
                "log_size": LOG_SIZE,
                "changes": {"reward_noise": REWARD_NOISE},
                "users": 512,
            },
            options,
        )
        for name in REQUIRED
        for scenario in TABLE1
    ]


def _name(method: str, scenario: str) -> str:
    return f"closest.{scenario}.{method.replace(' ', '-')}"


def _gaps(results: Results) -> dict[tuple[str, str], float]:
    """By method and mixture, the relative distance to the published reward."""
    return {
        (name, scenario): gap(
            mean_interval(late(results, _name(name, scenario))).mean, TABLE1[scenario][name]
        )
        for name in REQUIRED
        for scenario in TABLE1
    }


def table(results: Results) -> Table:
    """Rewards beside the published ones."""
    gaps = _gaps(results)
    rows = []
    for name in REQUIRED:
        row = [name]
        for scenario in TABLE1:
            row += [
                spread(late(results, _name(name, scenario))),
                f"{TABLE1[scenario][name]:.3f}",
                f"{gaps[name, scenario]:+.0%}",
            ]
        rows.append(row)
    header = ["method"]
    for scenario in TABLE1:
        header += [scenario, "paper", "gap"]
    return Table(
        "The simulator setting that comes closest",
        header,
        rows,
        note=f"{LOG_SIZE:,} rows and a reward noise of {REWARD_NOISE:g} in place of the table "
        "setting's 3,000 and .13; the paper gives neither. Chosen among four on three other seeds, "
        "by the largest of these gaps.",
    )


def claim(results: Results) -> Claim:
    """Whether one setting brings all of them near."""
    gaps = _gaps(results)
    inside = [abs(value) <= TOLERANCE for value in gaps.values()]
    (name, scenario), worst = max(gaps.items(), key=lambda item: abs(item[1]))
    return Claim(
        f"One setting of the simulator brings {', '.join(REQUIRED)} to their published rewards in "
        "both mixtures",
        "arXiv 2602.10430, table 1",
        verdict(inside),
        f"{LOG_SIZE:,} rows, reward noise {REWARD_NOISE:g}: {sum(inside)} of {len(inside)} within "
        f"{TOLERANCE:.0%}, the furthest is {name} ({scenario}), {worst:+.1%}",
    )
