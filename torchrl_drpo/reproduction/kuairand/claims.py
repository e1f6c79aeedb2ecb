"""What was said of this log after a first, untuned look, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.reproduction.kuairand.results import (
    GAUC,
    HITS,
    LIFT,
    Frontier,
    Runs,
    interval,
    paired,
    share_of_bc,
    values_of,
)
from torchrl_drpo.reproduction.target import Claim, verdict

FIRST_LOOK = "a first look at this log (2 seeds, nothing tuned)"
#: By setting: lift and hit rate on the best quarter of the first look.
SEEN: dict[tuple[str, float], tuple[float, float]] = {
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


def claims(
    runs: Runs, popularity: Mapping[str, float], frontiers: Mapping[str, Frontier]
) -> list[Claim]:
    """The claims whose settings were run, with verdicts from the numbers.

    Args:
        runs: of the test days.
        popularity: metrics of the ranking by popularity.
        frontiers: in hit rate and lift.
    """
    out = [_seen(runs, key) for key in SEEN if key in runs]
    bc, taper, signed = ("BC", 0.0), ("taper", 1.0), ("global scale", 1.0)
    quarter = ("top kappa, uniform", 0.25)
    if bc in runs:
        out.append(_imitation(runs))
    if {taper, quarter, bc} <= set(runs):
        out.append(_taper(runs, taper, quarter))
    if signed in runs:
        out.append(_signed(runs, signed, popularity))
    out += [_equal(runs, *same) for same in _SAME if same[2] in runs and same[3] in runs]
    if "taper" in frontiers and "positive-only" in frontiers:
        out.append(_outside(frontiers["taper"]))
    return out


def _seen(runs: Runs, key: tuple[str, float]) -> Claim:
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
    lift, auc = interval(runs, ("BC", 0.0), LIFT), interval(runs, ("BC", 0.0), GAUC)
    good = [lift.below(1.0), auc.below(0.5)]
    return Claim(
        "imitation ranks what users skipped above what they watched",
        FIRST_LOOK,
        verdict(good),
        f"BC: lift {lift} (1 is no order), GAUC of quality {auc} (.5 is no order)",
    )


def _taper(runs: Runs, taper: tuple[str, float], quarter: tuple[str, float]) -> Claim:
    gain, cost = paired(runs, taper, quarter, LIFT), share_of_bc(runs, taper)
    good = [gain.above(), cost.above(0.9)]
    return Claim(
        "tapered negatives repair the order more than the top quarter does, at a small cost in "
        "hits (at most a tenth of BC's)",
        FIRST_LOOK,
        verdict(good),
        f"lift above the top quarter's, paired: {gain}; hit rate as a share of BC's: {cost}",
    )


def _signed(runs: Runs, signed: tuple[str, float], popularity: Mapping[str, float]) -> Claim:
    hits, lift = interval(runs, signed, HITS), interval(runs, signed, LIFT)
    highest = max(runs, key=lambda key: interval(runs, key, LIFT).mean)
    good = [highest == signed, hits.below(popularity[HITS])]
    return Claim(
        "the signed loss without a taper has the highest lift of all and has lost the good items",
        FIRST_LOOK,
        verdict(good),
        f"lift {lift} (highest: {_name(highest)}), hit rate {hits} where popularity has "
        f"{popularity[HITS]:.3f}",
    )


def _equal(
    runs: Runs, statement: str, source: str, a: tuple[str, float], b: tuple[str, float]
) -> Claim:
    lift, hits = paired(runs, a, b, LIFT), paired(runs, a, b, HITS)
    good = [
        abs(lift.mean) + lift.half_width <= SAME_LIFT,
        abs(hits.mean) + hits.half_width <= SAME_HITS,
    ]
    return Claim(
        f"{statement} (lift within {SAME_LIFT:g}, hit rate within {SAME_HITS:g})",
        source,
        verdict(good),
        f"{_name(a)} less {_name(b)}, paired: lift {lift}, hit rate {hits}",
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


def plain_winner(runs: Runs) -> tuple[str, float]:
    """Who wins by the hit rate over all rows, which asks nothing about quality."""
    return max(runs, key=lambda key: mean_interval(values_of(runs, key, "hr@50")).mean)


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def _name(key: tuple[str, float]) -> str:
    return key[0] if key[0] == "BC" else f"{key[0]} {key[1]:g}"


def _over(runs: Runs) -> str:
    return f"{len(next(iter(runs.values())))} seeds, 95% t intervals"
