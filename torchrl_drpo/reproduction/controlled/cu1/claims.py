"""Verdicts of target ``cu1``, computed from the cells' numbers."""

from __future__ import annotations

import math
from typing import Any

from torchrl_drpo.envs import cu1
from torchrl_drpo.evaluation.statistics import paired_interval
from torchrl_drpo.report.formats import signed
from torchrl_drpo.reproduction.controlled.cu1.forms import compare, largest_deviation
from torchrl_drpo.reproduction.controlled.results import Runs, count
from torchrl_drpo.reproduction.target import Claim, verdict_of

SOURCE = "Dynamic Remoteness-Aware Policy Optimization (2026), C-U1"
TOLERANCE = 0.02


def claims(runs: dict[str, Runs], sign: dict[str, Any]) -> list[Claim]:
    """All claims that C-U1 can test."""
    return [
        _closed_forms(runs),
        _inverted_u(runs["response"]),
        _near_and_far(runs),
        _sign_rule(sign),
        _variance_first(runs["sigma"]),
        _scale_fails(runs["shapes"]),
        _beats_positive_only(runs),
    ]


def sign_rule(sign: dict[str, Any]) -> list[tuple[str, float, list[float], list[float]]]:
    """Force of each negative on log sigma: name, closed form, found and D, seed by seed."""
    base, *forces = sign["force"]  # the first arm is positive-only
    names = [arm["name"] for arm in sign["arms"]][1:]
    found = []
    for k, (name, force) in enumerate(zip(names, forces, strict=True)):
        (distance,) = cu1.negative_remoteness(negatives=[k])
        own = [a - b for a, b in zip(force, base, strict=True)]
        found.append((name, cu1.A_NEGATIVE * (distance - 2), own, sign["remoteness"][k + 1]))
    return found


def _closed_forms(runs: dict[str, Runs]) -> Claim:
    compared = {
        f"{cell}: {name}": form
        for cell in ("response", "sources", "shapes")
        for name, form in compare(runs[cell]).items()
    }
    name, worst = largest_deviation(compared)
    inside = sum(max(form.deviations()) <= TOLERANCE for form in compared.values())
    return Claim(
        "Trained policies arrive at the closed-form place and reward of every control, to 2%.",
        f"{SOURCE}, equilibria of the signed update",
        verdict_of(inside, len(compared)),
        f"{inside} of {len(compared)} arms within 2% in every seed; largest deviation "
        f"{worst:.2%} ({name})",
    )


def _inverted_u(runs: Runs) -> Claim:
    first, *rest = runs.arms
    base = runs.late("reward", first)
    gains = {n: paired_interval(runs.late("reward", n), base, len(rest)) for n in rest}
    best = max(gains, key=lambda n: gains[n].mean)
    last = max((n for n in rest if cu1.mass_ratio(runs.arms[n].alpha) < 1), key=rest.index)
    helps, harms = gains[best].above(), gains[last].below()
    top = cu1.mass_ratio(runs.arms[best].alpha)
    return Claim(
        "Useful negatives help until they do not: the reward over rho is an inverted U with its "
        "top at rho = .583, above positive-only, and falls below it before rho = 1.",
        SOURCE,
        verdict_of(helps + harms + (abs(top - 7 / 12) < 0.01), 3),
        f"best of {len(rest)} strengths at rho = {top:.3f}: {signed(gains[best])} over "
        f"positive-only; at rho = {cu1.mass_ratio(runs.arms[last].alpha):.2f}: "
        f"{signed(gains[last])} (paired by seed, Bonferroni over {len(rest)})",
    )


def _near_and_far(runs: dict[str, Runs]) -> Claim:
    base = runs["response"].late("reward", runs["response"].first)
    gain = {n: paired_interval(runs["sources"].late("reward", n), base, 2) for n in ("near", "far")}
    return Claim(
        "It is not the sign that decides: at the same mass, near negatives help and far ones harm.",
        SOURCE,
        verdict_of(gain["near"].above() + gain["far"].below(), 2),
        f"near {signed(gain['near'])}, far {signed(gain['far'])} against positive-only "
        "(paired by seed, Bonferroni over 2)",
    )


def _sign_rule(sign: dict[str, Any]) -> Claim:
    rule = sign_rule(sign)
    # Near D = 2 the force is about 0 and its sign a matter of the mean's misfit.
    clear = [(name, form, own) for name, form, own, _ in rule if abs(form) > 0.05]
    right = sum(all(force * form > 0 for force in own) for _, form, own in clear)
    widest = max(abs(force - form) for _, form, own, _ in rule for force in own)
    largest = max(abs(form) for _, form, _, _ in rule)
    return Claim(
        "Far negatives shrink sigma: a negative with mean z^2 below 1 raises log sigma, one above "
        "lowers it (the first paper's 'both expand' is withdrawn).",
        "the same, the sign rule",
        verdict_of(right, len(clear)),
        f"the sign is right in all seeds for {right} of {len(clear)} negatives away from z^2 = 1; "
        f"the force is within {widest:.3f} of |A-|(2 - D), which goes to {largest:.3f}",
    )


def _variance_first(runs: Runs) -> Claim:
    """Arms that keep a finite mean in closed form but no variance."""
    held, evidence = 0, []
    names = [
        name
        for name, arm in runs.arms.items()
        if arm.taper is None
        and cu1.mass_ratio(arm.alpha) < 1
        and cu1.resting_variance(arm.alpha, arm.negatives) < 0
    ]
    for name in names:
        arm, events = runs.arms[name], runs.events(name)
        place = cu1.resting_place(arm.alpha, arm.negatives)[0]
        off = [abs(x - place) / max(1.0, abs(place)) for x in runs.late("displacement", name)]
        bounded = sum(x < 1.0 for x in off)
        narrow = count(events, "support_boundary")
        sigma = math.exp(max(runs.late("log_sigma", name)))
        held += narrow == runs.seeds and bounded == runs.seeds
        evidence.append(
            f"{name}: boundary in {narrow} of {runs.seeds} seeds (sigma at most {sigma:.1e}), mean "
            f"held in {bounded}"
        )
    return Claim(
        "With a learned sigma the variance vanishes before the mean is lost, at rho below 1.",
        "the same, equilibrium of the variance",
        verdict_of(held, len(names)),
        "; ".join(evidence),
    )


def _scale_fails(runs: Runs) -> Claim:
    strong = max(arm.alpha for arm in runs.arms.values())
    scaled = [n for n, a in runs.arms.items() if a.taper is None and cu1.mass_ratio(a.alpha) > 1]
    tapered = [n for n, a in runs.arms.items() if a.taper is not None and a.alpha == strong]
    fails = sum(count(runs.events(n), "task_collapse") == runs.seeds for n in scaled)
    keeps = [n for n in tapered if not any(runs.events(n))]
    lost = [n for n in tapered if n not in keeps]
    return Claim(
        "A global scale fails where tapers hold: past rho = 1 it loses the task, and no taper "
        "whose weight goes to 0 does.",
        f"{SOURCE}, levels of guarantee",
        verdict_of((fails == len(scaled)) + len(keeps), 1 + len(tapered)),
        f"{', '.join(scaled)}: task collapse in all seeds of {fails} of {len(scaled)} arms. No "
        f"event: {', '.join(keeps) or 'none'}. Task lost in some seed: {', '.join(lost) or 'none'}",
    )


def _beats_positive_only(runs: dict[str, Runs]) -> Claim:
    base = runs["response"].late("reward", runs["response"].first)
    shapes = runs["shapes"]
    names = [name for name, arm in shapes.arms.items() if arm.taper is not None]
    gains = {n: paired_interval(shapes.late("reward", n), base, len(names)) for n in names}
    better = [n for n in names if gains[n].above()]
    worse = [n for n in names if gains[n].below()]
    return Claim(
        "With all eight negatives in use, a taper beats positive-only.",
        SOURCE,
        verdict_of(len(better), len(names)),
        f"better: {'; '.join(f'{n} {signed(gains[n])}' for n in better) or 'none'}. Worse: "
        f"{'; '.join(f'{n} {signed(gains[n])}' for n in worse) or 'none'} (paired by seed, "
        f"Bonferroni over {len(names)})",
    )
