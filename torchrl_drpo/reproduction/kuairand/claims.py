"""What was said of this log after a first, untuned look, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.reproduction.kuairand.choices import Choice
from torchrl_drpo.reproduction.kuairand.methods import AT_SERVING, METHODS, label
from torchrl_drpo.reproduction.kuairand.paths import Key
from torchrl_drpo.reproduction.kuairand.results import (
    BC,
    GAUC,
    GAUC_WITHIN,
    HITS,
    LIFT,
    LOWEST,
    POSITIVE,
    WITHIN,
    Frontier,
    Runs,
    difference,
    interval,
    listed,
    outside,
    paired,
    share_of_bc,
    values_of,
)
from torchrl_drpo.reproduction.target import Claim, verdict

FIRST_LOOK = "a first look at this log (2 seeds, nothing tuned)"
#: By setting: lift and hit rate on the best quarter of the first look.
SEEN: dict[Key, tuple[float, float]] = {
    ("taper", 1.0): (2.1, 0.22),
    ("top kappa, uniform", 0.25): (1.3, 0.23),
    ("BC", 0.0): (0.9, 0.25),
    ("global scale", 1.0): (3.1, 0.06),
}
WHAT = {
    ("taper", 1.0): "signed under an exponential taper",
    ("top kappa, uniform", 0.25): "the top quarter, uniform",
    ("BC", 0.0): "BC",
    ("global scale", 1.0): "the signed loss without a taper",
}
#: A number of the first look is confirmed within a tenth of itself.
TOLERANCE = 0.1
#: Two methods are called equal when lifts differ by less, hit rates by less, intervals and all.
SAME_LIFT, SAME_HITS = 0.1, 0.01
#: What was called equal: in which words, by whom, and which settings.
_SAME = (
    (
        "DRPO with its adaptive kappa equals positive-only learning",
        "`drpo train` on this log (3 seeds, nothing tuned)",
        ("DRPO, adaptive", 0.0),
        ("positive-only", 0.5),
    ),
    (
        "OneRec-V2's form, the worst quarter repelled under GBPO's bound, equals the top quarter",
        FIRST_LOOK,
        ("top quarter + worst, GBPO", 1.0),
        ("top kappa, uniform", 0.25),
    ),
    (
        "explicit dislikes, repelled under a taper, add nothing to the top quarter",
        "their number: fewer than one in a thousand rows",
        ("top quarter + hated", 1.0),
        ("top kappa, uniform", 0.25),
    ),
    (
        "GBPO on signed advantages equals positive-only learning",
        "its bound: a repelled item of a large catalogue weighs about pi(a|s)",
        ("GBPO", 1.0),
        ("positive-only", 0.5),
    ),
)


#: What is claimed of the policies that are tilted or conditioned at serving.
BETTER = (
    "a policy that is tilted by the critic or conditioned on quality, chosen on the tuning days, "
    "has more hits than BC, at least positive-only's lift within tabs, a GAUC within user and tab "
    "above both, and serves the lowest tab no worse than BC"
)
_HERE = "measured prototypes (1 or 2 seeds)"


def claims(
    runs: Runs,
    popularity: Mapping[str, float],
    by_lift: Mapping[str, Frontier],
    by_within: Mapping[str, Frontier],
    winner: Choice | None,
) -> list[Claim]:
    """The claims whose settings were run, with verdicts from the numbers.

    Args:
        runs: of the test days.
        popularity: metrics of the ranking by popularity.
        by_lift: frontiers in hit rate and lift.
        by_within: frontiers in hit rate and lift within tabs.
        winner: of the policies that are tilted or conditioned, the choice that keeps BC's hits.
    """
    out = []
    if winner is not None and {winner.key, BC, POSITIVE} <= set(runs):
        out.append(_better(runs, winner.key))
    at_serving = [name for name in AT_SERVING if name in by_within]
    if at_serving and "positive-only" in by_within:
        out.append(_served_outside(by_within, at_serving))
    out += [_seen(runs, key) for key in SEEN if key in runs]
    bc, taper, signed = BC, ("taper", 1.0), ("global scale", 1.0)
    quarter = ("top kappa, uniform", 0.25)
    if bc in runs:
        out.append(_imitation(runs))
    if {taper, quarter, bc} <= set(runs):
        out.append(_taper(runs, taper, quarter))
    if signed in runs:
        out.append(_signed(runs, signed, popularity))
    out += [_equal(runs, *same) for same in _SAME if same[2] in runs and same[3] in runs]
    if "taper" in by_lift and "positive-only" in by_lift:
        out.append(_outside(by_lift["taper"]))
    return out


def _better(runs: Runs, key: Key) -> Claim:
    hits, within = difference(runs, key, BC, HITS), difference(runs, key, POSITIVE, WITHIN)
    order = [difference(runs, key, other, GAUC_WITHIN) for other in (BC, POSITIVE)]
    lowest = difference(runs, key, BC, LOWEST)
    good = [
        hits.both.above(),
        within.both.mean >= 0,
        all(each.both.above() for each in order),
        lowest.both.mean >= 0,
    ]
    return Claim(
        BETTER,
        _HERE,
        verdict(good),
        f"{label(key)}, test days: hits less BC's {hits}; lift within less positive-only's "
        f"{within}; GAUC within less BC's {order[0]}, less positive-only's {order[1]}; lowest tab "
        f"less BC's {lowest}. Intervals are 95%, paired, over seeds and users together. Hits and "
        "GAUC count where the whole interval lies above 0; lift and lowest tab where the mean does "
        f"(interval above 0: lift {_yes(within.both.above())}, lowest tab "
        f"{_yes(lowest.both.above())})",
    )


def _served_outside(by_within: Mapping[str, Frontier], at_serving: list[str]) -> Claim:
    good = [by_within[name].outside for name in at_serving]
    areas = "; ".join(f"{name} {by_within[name].above}" for name in at_serving)
    others = [name for name in outside(by_within) if name not in at_serving]
    return Claim(
        "in hits and lift within tabs, every path that is tilted or conditioned at serving lies "
        "outside positive-only's",
        _HERE,
        verdict(good),
        f"area above positive-only's, paired by seed, thousandths: {areas}. Of the others, outside "
        f"lie: {listed(others)}",
    )


def _seen(runs: Runs, key: Key) -> Claim:
    lift, hits = SEEN[key]
    now = interval(runs, key, LIFT), interval(runs, key, HITS)
    good = [
        abs(got.mean - seen) <= TOLERANCE * seen
        for got, seen in zip(now, (lift, hits), strict=True)
    ]
    return Claim(
        statement=f"{WHAT[key]}: lift {lift:g} at a hit rate of {hits:g} on the best quarter",
        source=FIRST_LOOK,
        verdict=verdict(good),
        evidence=f"lift {now[0]}, hit rate {now[1]} ({_over(runs)}; within a tenth: "
        f"lift {_yes(good[0])}, hit rate {_yes(good[1])})",
    )


def _imitation(runs: Runs) -> Claim:
    lift, auc = interval(runs, BC, LIFT), interval(runs, BC, GAUC)
    good = [lift.below(1.0), auc.below(0.5)]
    return Claim(
        "imitation ranks what users skipped above what they watched",
        FIRST_LOOK,
        verdict(good),
        f"BC: lift {lift} (1 is no order), GAUC of quality {auc} (.5 is no order)",
    )


def _taper(runs: Runs, taper: Key, quarter: Key) -> Claim:
    gain, cost = paired(runs, taper, quarter, LIFT), share_of_bc(runs, taper)
    good = [gain.above(), cost.above(0.9)]
    return Claim(
        "tapered negatives repair the order more than the top quarter does, at a small cost in "
        "hits (at most a tenth of BC's)",
        FIRST_LOOK,
        verdict(good),
        f"lift above the top quarter's, paired: {gain}; hit rate as a share of BC's: {cost}",
    )


def _signed(runs: Runs, signed: Key, popularity: Mapping[str, float]) -> Claim:
    hits, lift = interval(runs, signed, HITS), interval(runs, signed, LIFT)
    logged = {method.name for method in METHODS if method.plain and not method.follows}
    known = [key for key in runs if key[0] in logged]
    lifts = {key: interval(runs, key, LIFT).mean for key in known}
    finite = [key for key in known if math.isfinite(lifts[key])]  # an infinite one has no size
    highest = max(finite or known, key=lifts.__getitem__)
    good = [highest == signed, hits.below(popularity[HITS])]
    return Claim(
        "of the losses on logged rewards, the signed one without a taper has the highest lift and "
        "has lost the good items",
        FIRST_LOOK,
        verdict(good),
        f"lift {lift} (highest: {label(highest)}), hit rate {hits} where popularity has "
        f"{popularity[HITS]:.3f}",
    )


def _equal(runs: Runs, statement: str, source: str, a: Key, b: Key) -> Claim:
    lift, hits = paired(runs, a, b, LIFT), paired(runs, a, b, HITS)
    good = [
        abs(lift.mean) + lift.half_width <= SAME_LIFT,
        abs(hits.mean) + hits.half_width <= SAME_HITS,
    ]
    return Claim(
        f"{statement} (lift within {SAME_LIFT:g}, hit rate within {SAME_HITS:g})",
        source,
        verdict(good),
        f"{label(a)} less {label(b)}, paired: lift {lift}, hit rate {hits}",
    )


def _outside(taper: Frontier) -> Claim:
    return Claim(
        "no taper beats positive-only learning (in most external tests): its frontier does not "
        "lie outside",
        "the authors' later rewrite (2026)",
        "not held" if taper.above.mean > 0 and taper.p < 0.05 else "held",
        f"area in hit rate and lift above positive-only's, paired, thousandths: {taper.above}, "
        f"Holm p = {taper.p:.2g}",
    )


def plain_winner(runs: Runs) -> Key:
    """Who wins by the hit rate over all rows, which asks nothing about quality."""
    return max(runs, key=lambda key: mean_interval(values_of(runs, key, "hr@50")).mean)


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def _over(runs: Runs) -> str:
    return f"{len(next(iter(runs.values())).seeds)} seeds, 95% t intervals"
