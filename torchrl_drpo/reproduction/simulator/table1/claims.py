"""What table 1 claims, and what the seeds say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.report.formats import signed
from torchrl_drpo.reproduction.published import APG_DISTANCE, TABLE1
from torchrl_drpo.reproduction.simulator.results import TOLERANCE, finite, gap
from torchrl_drpo.reproduction.target import Claim, verdict

#: Methods whose published rewards an honest implementation should come to.
REQUIRED = ("BC", "AWR", "IQL", "Adaptive BC", "DRPO")
_WHERE = "arXiv 2602.10430, table 1"
#: By scenario and method, each seed's reward.
Rewards = Mapping[str, Mapping[str, Sequence[float]]]


def claims(rewards: Rewards, apg_distance: Mapping[str, Sequence[float]]) -> list[Claim]:
    """Verdicts.

    Args:
        rewards: by scenario and method.
        apg_distance: distance of APG's actions to the best item, by scenario.
    """
    return [
        *(_near(rewards, name, list(rewards)) for name in (*REQUIRED, "DRPO-Exp", "CRR")),
        _near(rewards, "BPPO", ["extreme"]),
        _near(rewards, "BPPO", ["medium"]),
        _above(rewards, "DRPO-Exp", "DRPO", ["extreme"]),
        _above(rewards, "BC", "AWR", list(rewards)),
        _collapse(rewards, apg_distance),
        _best(rewards),
    ]


def _near(rewards: Rewards, name: str, scenarios: Sequence[str]) -> Claim:
    found = {s: mean_interval(rewards[s][name]).mean for s in scenarios}
    words = " and ".join(f"{TABLE1[s][name]:.3f} ({s})" for s in scenarios)
    return Claim(
        f"{name} earns {words}",
        _WHERE,
        verdict([abs(gap(found[s], TABLE1[s][name])) <= TOLERANCE for s in scenarios]),
        "; ".join(f"{s} {found[s]:.3f}, {gap(found[s], TABLE1[s][name]):+.1%}" for s in scenarios)
        + f"; held within {TOLERANCE:.0%}",
    )


def _above(rewards: Rewards, better: str, worse: str, scenarios: Sequence[str]) -> Claim:
    found = {s: paired_interval(rewards[s][better], rewards[s][worse]) for s in scenarios}
    return Claim(
        f"{better} is above {worse} ({' and '.join(scenarios)})",
        _WHERE,
        verdict([f.above() for f in found.values()]),
        "paired: " + "; ".join(f"{s} {signed(f)}" for s, f in found.items()),
    )


def _collapse(rewards: Rewards, distance: Mapping[str, Sequence[float]]) -> Claim:
    found = {s: mean_interval(methods["APG"]).mean for s, methods in rewards.items()}
    far = {s: mean_interval(values).mean for s, values in distance.items()}
    return Claim(
        f"APG collapses to .01, at a distance over {APG_DISTANCE}",
        _WHERE,
        verdict(
            [value < 0.05 for value in found.values()]
            + [value > APG_DISTANCE for value in far.values()]
        ),
        "; ".join(f"{s} {found[s]:.3f} at {far[s]:.2f}" for s in rewards)
        + "; counted as collapse below .05. A reward below a random item's needs actions that "
        "point away from every interest",
    )


def _best(rewards: Rewards) -> Claim:
    parts, words = [], []
    for scenario, methods in rewards.items():
        ours = max(("DRPO", "DRPO-Exp"), key=lambda name: mean_interval(methods[name]).mean)
        others = {
            name: paired_interval(methods[name], methods[ours])
            for name in methods
            if name not in ("DRPO", "DRPO-Exp") and finite(methods[name])  # what broke down lost
        }
        parts.append(all(difference.below() for difference in others.values()))
        rival = max(others, key=lambda name: others[name].mean)
        words.append(f"{scenario}: best rival of {ours} is {rival}, {signed(others[rival])}")
    return Claim(
        "DRPO or DRPO-Exp is the best of the table in both mixtures",
        _WHERE,
        verdict(parts),
        "; ".join(words),
    )
