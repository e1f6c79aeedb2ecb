"""Tables of target ``cu1``: closed forms beside what was found."""

from __future__ import annotations

import math
from typing import Any

from torchrl_drpo.envs import cu1
from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.report.formats import number, signed, spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.cu1.claims import sign_rule
from torchrl_drpo.reproduction.controlled.cu1.forms import compare
from torchrl_drpo.reproduction.controlled.results import Runs, describe


def tables(runs: dict[str, Runs], sign: dict[str, Any]) -> list[Table]:
    """All tables of the section.

    Args:
        runs: of the cells of arms, by name.
        sign: the result of cell ``sign-rule``.
    """
    return [
        _response(runs["response"]),
        _sources(runs),
        _shapes(runs),
        _sigma(runs["sigma"]),
        _sign_rule(sign),
    ]


def _response(runs: Runs) -> Table:
    base = runs.late("reward", runs.first)
    compared, rows = compare(runs), []
    for name, arm in runs.arms.items():
        form = compared.get(name)
        rows.append(
            [
                f"{cu1.mass_ratio(arm.alpha):.2f}",
                number(form.place[0]) if form else "runs away",
                spread(runs.late("displacement", name)),
                number(form.reward) if form else "0",
                spread(runs.late("reward", name)),
                signed(paired_interval(runs.late("reward", name), base)),
                describe(runs.events(name)),
            ]
        )
    return Table(
        "Useful negatives help until they do not: negative 0 alone",
        ["rho", "displacement, form", "found", "reward, form", "found", "vs rho 0", "events"],
        rows,
        note="rho = 0 is positive-only. The closed form's best is rho = 7/12.",
    )


def _sources(runs: dict[str, Runs]) -> Table:
    base, sources = _positive_only(runs), runs["sources"]
    rows = []
    for name, form in compare(sources).items():
        start = cu1.negative_remoteness(negatives=sources.arms[name].negatives)
        along, across = zip(*form.found, strict=True)
        rows.append(
            [
                name,
                f"{sum(start) / len(start):.2f}",
                f"({number(form.place[0])}, {number(form.place[1])})",
                f"({number(mean_interval(along).mean)}, {number(mean_interval(across).mean)})",
                number(form.reward),
                spread(form.found_reward),
                signed(paired_interval(form.found_reward, base)),
            ]
        )
    alpha = next(iter(sources.arms.values())).alpha
    return Table(
        "Source isolation, and near against far",
        [
            "source",
            "D at start",
            "place, form",
            "found",
            "reward, form",
            "found",
            "vs positive-only",
        ],
        rows,
        note=f"alpha = {alpha:g}, rho = {cu1.mass_ratio(alpha):.3f} in every row; negative k lies "
        "at 180 + 45k degrees about the best action. near: 7, 0, 1; far: 3, 4, 5. All eight rest "
        "where near and far do, for their centroid is the same.",
    )


def _shapes(runs: dict[str, Runs]) -> Table:
    base, shapes = _positive_only(runs), runs["shapes"]
    compared, rows = compare(shapes), []
    for name in shapes.arms:
        form = compared.get(name)
        late = {
            metric: mean_interval(shapes.late(metric, name)).mean
            for metric in ("near_retention", "far_retention", "active_fraction")
        }
        rows.append(
            [
                name,
                number(form.place[0]) if form else "runs away",
                spread(shapes.late("displacement", name)),
                spread(shapes.late("reward", name)),
                signed(paired_interval(shapes.late("reward", name), base)),
                *(f"{value:.3f}" for value in late.values()),
                describe(shapes.events(name)),
            ]
        )
    return Table(
        "Shapes of control, all eight negatives",
        [
            "control",
            "displacement, form",
            "found",
            "reward",
            "vs positive-only",
            "w near",
            "w far",
            "active",
            "events",
        ],
        rows,
        note="Every taper keeps half of a negative at D = 2, and the global scale half of all; the "
        "cut-off keeps what is nearer than D = 3. w near, w far: mean weight of negatives 7, 0, 1 "
        "and 3, 4, 5 under the trained policy; active: share of the negatives with w < 1 (a global "
        "scale is no taper). The cut-off at alpha 4 holds the mean where negative 0 passes its "
        "threshold: the threshold, not the strength, decides that reward. Before its control, "
        "alpha 1 is rho = 0.59 and alpha 4 is rho = 2.37.",
    )


def _sigma(runs: Runs) -> Table:
    rows = []
    for name, arm in runs.arms.items():
        variance = cu1.resting_variance(arm.alpha, arm.negatives) if arm.taper is None else math.nan
        if math.isnan(variance):
            form = "-"
        else:
            form = f"{math.log(variance) / 2:.3f}" if variance > 0 else "vanishes"
        rows.append(
            [
                name,
                form,
                spread(runs.late("log_sigma", name)),
                spread(runs.late("displacement", name)),
                spread(runs.late("reward", name)),
                describe(runs.events(name)),
            ]
        )
    return Table(
        "Learned sigma",
        ["arm", "log sigma, form", "found", "displacement", "reward", "events"],
        rows,
        note="-: no closed form. A vanishing sigma stops where D passes 1e20 or so: Adam's second "
        "moment then overflows float32 and no step is left, which is no rest of the loss. "
        "Where the taper holds sigma, D is so large that the negatives count for little: these "
        "policies are close to positive-only.",
    )


def _sign_rule(sign: dict[str, Any]) -> Table:
    rows = []
    for name, form, found, remoteness in sign_rule(sign):
        rows.append(
            [
                name,
                f"{mean_interval(remoteness).mean:.2f}",
                f"{form:+.3f}",
                signed(paired_interval(found, [0.0] * len(found))),
            ]
        )
    return Table(
        "What one negative does to log sigma at the start (sigma = .60)",
        ["source", "D", "force, form", "found"],
        rows,
        note="force = |A-| (2 - D) for D at the exact mean; a negative nearer than D = 2 (mean "
        "squared z of 1) widens the policy, one farther away narrows it.",
    )


def _positive_only(runs: dict[str, Runs]) -> list[float]:
    """Late rewards of positive-only training under the fixed sigma, seed by seed."""
    response = runs["response"]
    return response.late("reward", response.first)
