"""The section of target ``beyond``: every candidate against DRPO and every baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torchrl_drpo.evaluation.statistics import (
    corrected_p_values,
    mean_interval,
    paired_interval,
)
from torchrl_drpo.report.formats import signed
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.beyond import condition
from torchrl_drpo.reproduction.simulator.beyond.compared import (
    BASELINES,
    CANDIDATES,
    PLACES,
    SIMPLER,
    UPHILL,
    Place,
    cell_name,
)
from torchrl_drpo.reproduction.simulator.results import finite, late
from torchrl_drpo.reproduction.target import Claim, Options, Results, Section, verdict

Rewards = Mapping[Place, Mapping[str, Sequence[float]]]


def section(options: Options, results: Results) -> Section:
    """Rewards in every place, who leads there, and which candidates beat every baseline in all."""
    rewards = {
        place: {name: late(results, cell_name(name, place)) for name in CANDIDATES | BASELINES}
        for place in PLACES
    }
    leaders = {place: _leaders(rewards[place]) for place in PLACES}
    led = "; ".join(f"{place}: {' and '.join(leaders[place])}" for place in PLACES)
    text = (
        f"{options.fresh_seeds} fresh seeds, paired by seed, Holm's correction over the baselines "
        "of a place. *Uphill* moves the good rows' actions up the slope of a cross-fitted reward "
        "model before a policy learns from them: `drpo train --policy embedding --objectives "
        "uphill`, or `uphill-tapered`. *Uphill at serving* leaves positive-only learning as it is "
        "and moves the mean of the policy that serves, by one model of all rows; the *direct "
        "method* serves what that model says is best. In front, with whom the seeds do not tell "
        f"from the best: {led}. {condition.sentence(results)}"
    )
    return Section(
        "Beyond DRPO",
        text,
        tables=[
            _rewards_table(rewards),
            _leaders_table(rewards, leaders),
            condition.table(results),
        ],
        claims=[*_claims(rewards), *condition.claims(results)],
    )


def _rewards_table(rewards: Rewards) -> Table:
    rows = [
        [name, *(str(mean_interval(rewards[place][name])) for place in PLACES)]
        for name in CANDIDATES | BASELINES
    ]
    return Table("Retrieved reward", ["method", *map(str, PLACES)], rows)


def _leaders(rewards: Mapping[str, Sequence[float]]) -> list[str]:
    """The best, and those that the seeds do not tell from it, from the best on."""
    standing = {name: values for name, values in rewards.items() if finite(values)}
    order = sorted(standing, key=lambda name: -mean_interval(standing[name]).mean)
    best, *others = order
    p = corrected_p_values({name: standing[name] for name in others}, standing[best])
    return [best, *(name for name in others if not p[name] < 0.05)]


def _leaders_table(rewards: Rewards, leaders: Mapping[Place, Sequence[str]]) -> Table:
    rows = []
    for place in PLACES:
        best, *level = leaders[place]
        found = rewards[place]
        lost = paired_interval(found[UPHILL], found[best])
        rows.append(
            [
                str(place),
                best,
                str(mean_interval(found[best])),
                "" if best == UPHILL else signed(lost),
                ", ".join(level),
            ]
        )
    header = ["place", "best", "reward", f"{UPHILL} minus it", "not told from it"]
    note = "Not told from it: paired by seed, Holm's correction over all others, 95%."
    return Table("Who leads", header, rows, note=note)


def _claims(rewards: Rewards) -> list[Claim]:
    claims = []
    for name in CANDIDATES:
        found = [_against(rewards[place], name, BASELINES) for place in PLACES]
        claims.append(_claim(f"{name} beats every baseline", found))
    found = [_against(rewards[place], UPHILL, SIMPLER) for place in PLACES]
    claims.append(_claim(f"{UPHILL} beats the direct method and uphill at serving", found))
    return claims


def _claim(statement: str, found: Sequence[tuple[bool, str]]) -> Claim:
    words = [f"{place}: {text}" for place, (_, text) in zip(PLACES, found, strict=True)]
    return Claim(statement, "this project", verdict([won for won, _ in found]), "; ".join(words))


def _against(
    rewards: Mapping[str, Sequence[float]], name: str, baselines: Iterable[str]
) -> tuple[bool, str]:
    """Whether a candidate beats every baseline of a place; a policy that broke down is beaten."""
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
