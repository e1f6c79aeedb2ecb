"""The section of target ``beyond``: every candidate against DRPO and every baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torchrl_drpo.evaluation.statistics import corrected_p_values, mean_interval
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.results import finite, late
from torchrl_drpo.reproduction.target import Claim, Options, Results, Section, verdict


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
        found = [_against(rewards[setup], name, baselines) for setup in setups]
        words = [f"{' '.join(s)}: {text}" for s, (_, text) in zip(setups, found, strict=True)]
        wins = [won for won, _ in found]
        claims.append(
            Claim(f"{name} beats every baseline", "this project", verdict(wins), "; ".join(words))
        )
    text = (
        f"{options.fresh_seeds} fresh seeds, paired by seed, Holm's correction over the baselines "
        "of a setup. *Uphill* moves the good rows' actions up the slope of a cross-fitted reward "
        "model before a policy learns from them: `drpo train --policy embedding --objectives "
        "uphill`, or `uphill-tapered`."
    )
    return Section("Beyond DRPO", text, tables=[table], claims=claims)


def _against(
    rewards: Mapping[str, Sequence[float]], name: str, baselines: Iterable[str]
) -> tuple[bool, str]:
    """Whether a candidate beats every baseline of a setup; a policy that broke down is beaten."""
    mine = rewards[name]
    others = {other: rewards[other] for other in baselines if finite(rewards[other])}
    broken = [other for other in baselines if other not in others]
    lost = f"; {', '.join(broken)} ended at NaN" if broken else ""
    if not finite(mine):
        return False, f"{name} ended at NaN in {sum(map(math.isnan, mine))} of {len(mine)} seeds"
    if not others:
        return True, f"no baseline is left{lost}"
    p = max(corrected_p_values(others, mine).values())
    margin = mean_interval(mine).mean - max(mean_interval(v).mean for v in others.values())
    return margin > 0 and p < 0.05, f"{margin:+.4f} over the best, p {p:.1e}{lost}"
