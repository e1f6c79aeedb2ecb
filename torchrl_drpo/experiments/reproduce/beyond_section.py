"""The section of target ``beyond``: every candidate against DRPO and every baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.experiments.reproduce.simulated import corrected, late, verdict
from torchrl_drpo.experiments.reproduce.target import Claim, Options, Results, Section
from torchrl_drpo.report.tables import Table


def section(
    options: Options,
    results: Results,
    candidates: Mapping[str, Any],
    baselines: Mapping[str, Any],
    setups: Sequence[tuple[str, str]],
    cell_name: Callable[[str, str, str], str],
) -> Section:
    """Rewards in every setup, and which candidates beat every baseline in all of them."""
    names = [*candidates, *baselines]
    rewards = {
        setup: {name: late(results, cell_name(name, *setup)) for name in names} for setup in setups
    }
    rows = [
        [name, *(str(mean_interval(rewards[setup][name])) for setup in setups)] for name in names
    ]
    table = Table("Retrieved reward", ["method", *map(" ".join, setups)], rows)
    claims = []
    for name in candidates:
        wins, words = [], []
        for setup in setups:
            mine = rewards[setup][name]
            others = {other: rewards[setup][other] for other in baselines}
            p = corrected(others, mine)
            margin = min(mean_interval(mine).mean - mean_interval(v).mean for v in others.values())
            wins.append(margin > 0 and max(p.values()) < 0.05)
            words.append(f"{' '.join(setup)}: {margin:+.4f} over the best, p {max(p.values()):.1e}")
        claims.append(
            Claim(f"{name} beats every baseline", "this project", verdict(wins), "; ".join(words))
        )
    text = (
        f"{options.fresh_seeds} fresh seeds, paired by seed, Holm's correction over the baselines "
        "of a setup."
    )
    return Section("Beyond DRPO", text, tables=[table], claims=claims)
