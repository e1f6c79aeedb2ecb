"""What was claimed of phantom gradients, and what the seeds say."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torchrl_drpo.evaluation.statistics import Interval, mean_interval, paired_interval
from torchrl_drpo.report.formats import plus_minus
from torchrl_drpo.reproduction.published import PHANTOM
from torchrl_drpo.reproduction.simulator.divergence.series import (
    SETTINGS,
    growth,
    looks,
    ratio,
    window,
)
from torchrl_drpo.reproduction.target import Claim, Results, verdict

#: "About n times" is taken to hold within this factor.
FACTOR = 2.0
_WHERE = "arXiv 2602.10430, section 3"
#: By setting.
Found = Mapping[str, Interval]


def claims(results: Results) -> list[Claim]:
    """Growth, ratios, the score's square, the sign rule, and what expands."""
    return [
        *_growth(results),
        *(_ratio(results, part) for part in ("sigma", "mean")),
        _square_of_the_score(results),
        _sign_rule(results),
        _expansion(results),
    ]


def _growth(results: Results) -> list[Claim]:
    grown = {s: mean_interval(growth(results, f"{s}.positive-only")) for s in SETTINGS}
    return [
        Claim(
            "While only positives are trained on, the negatives' gradient grows several times",
            _WHERE,
            verdict([found.above(FACTOR) for found in grown.values()]),
            f"{_each(grown)}; several: more than {FACTOR:g} times",
        ),
        Claim(
            f"It grows about {PHANTOM['growth']:g} times",
            _WHERE,
            verdict([_near(found, PHANTOM["growth"]) for found in grown.values()]),
            f"{_each(grown)}; about: within a factor of {FACTOR:g}",
        ),
    ]


def _ratio(results: Results, part: str) -> Claim:
    published, words = {
        "sigma": (PHANTOM["ratio_sigma"], "sigma"),
        "mean": (PHANTOM["ratio_mu"], "the mean"),
    }[part]
    found = {s: mean_interval(ratio(results, f"{s}.positive-only", part)) for s in SETTINGS}
    return Claim(
        f"Repulsion is about {published:g} times attraction on {words}",
        _WHERE,
        verdict([_near(one, published) for one in found.values()]),
        _each(found),
    )


def _square_of_the_score(results: Results) -> Claim:
    on, off = (
        {s: mean_interval(window(results, f"{s}.APG", name)) for s in SETTINGS}
        for name in ("on_policy", "off_policy")
    )
    return Claim(
        "On-policy the squared score of the mean is tr(Sigma^-1) whatever the mean; "
        "off-policy it is more",
        _WHERE,
        verdict(
            [abs(found.mean - 1) < 0.02 for found in on.values()]
            + [found.above(1.0) for found in off.values()]
        ),
        f"on-policy over theory: {_each(on)}; negatives over theory under APG: {_each(off)}",
    )


def _sign_rule(results: Results) -> Claim:
    found = {}
    for s in SETTINGS:
        rows = looks(results, f"{s}.APG", "agreement")[1:]
        found[s] = mean_interval([math.fsum(c) / len(rows) for c in zip(*rows, strict=True)])
    return Claim(
        "The sign of the summed A (z_j^2 - 1) says where log sigma_j goes next",
        "sign rule, from the score of section 3",
        verdict([one.above(0.9) for one in found.values()]),
        "agreement over dimensions and looks under APG: "
        + "; ".join(f"{s} {one.mean:.1%}" for s, one in found.items())
        + "; held above 90%",
    )


def _expansion(results: Results) -> Claim:
    change = {}
    for s in SETTINGS:
        for name, words in (("mean_norm", "RMS mean"), ("log_sigma", "log sigma")):
            first, last = looks(results, f"{s}.APG", name)[0], window(results, f"{s}.APG", name)
            change[f"{words} ({s})"] = paired_interval(last, first)
    return Claim(
        "Under repulsion both the mean and sigma expand",
        _WHERE,
        verdict([found.above() for found in change.values()]),
        "change under APG: "
        + "; ".join(f"{words} {plus_minus(f, '+.2f')}" for words, f in change.items()),
    )


def _near(found: Interval, published: float) -> bool:
    return published / FACTOR <= found.mean <= published * FACTOR


def _each(found: Found) -> str:
    return "; ".join(f"{setting} {plus_minus(f, '.2f')}" for setting, f in found.items())
