"""What was claimed of D-U1, and what the cells' numbers say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.report.formats import plus_minus, signed
from torchrl_drpo.reproduction.controlled.du1.modes import Mode
from torchrl_drpo.reproduction.controlled.results import count
from torchrl_drpo.reproduction.target import Claim, verdict_of

SOURCE = "Dynamic Remoteness-Aware Policy Optimization (2026), D-U1"


def claims(modes: dict[str, Mode]) -> list[Claim]:
    """All claims that D-U1 can test."""
    return [
        _inverted_u(modes),
        _bounded_score(modes["learned"]),
        _concentration(modes["learned"]),
        _control(modes),
        _beats_positive_only(modes),
    ]


def _inverted_u(modes: dict[str, Mode]) -> Claim:
    held, evidence = 0, []
    for mode in modes.values():
        strengths = list(mode.local.arms)[1:]
        gains = {name: mode.gain(name, len(strengths)) for name in strengths}
        best = max(gains, key=lambda n: gains[n].mean)
        held += gains[best].above() + gains[strengths[-1]].below()
        evidence.append(
            f"kappa {mode.name}: best of {len(strengths)} {best} {signed(gains[best])}, "
            f"{strengths[-1]} {signed(gains[strengths[-1]])}"
        )
    return Claim(
        "Useful (local) negatives help until they do not: an inverted U over their strength.",
        SOURCE,
        verdict_of(held, 2 * len(modes)),
        "; ".join(evidence) + " (against positive-only, paired by world, Bonferroni)",
    )


def _bounded_score(mode: Mode) -> Claim:
    name = "far, alpha 1"
    largest = max(
        value
        for arm, runs in mode.arms()
        for row in runs.evaluations("largest_score_norm", arm)
        for value in row
    )
    far, base = mode.controls.late("far_remoteness", name), mode.base("far_remoteness")
    more = paired_interval(far, base)
    return Claim(
        "Far negatives do not explode a categorical policy's gradient: the score stays below "
        "sqrt 2; their probability collapses instead.",
        "the same, bounds on the categorical score",
        verdict_of((largest <= math.sqrt(2) + 1e-5) + more.above(), 2),
        f"largest |e_a - pi| of any negative at any evaluation of all arms {largest:.6f}; "
        f"log pi of far negatives with kappa learned {-mean_interval(far).mean:.3g} against "
        f"{-mean_interval(base).mean:.3g} for positive-only",
    )


def _concentration(mode: Mode) -> Claim:
    name = "far, alpha 1"
    pairs = {
        metric: paired_interval(mode.controls.late(metric, name), mode.base(metric), 2)
        for metric in ("entropy", "kappa")
    }
    return Claim(
        "Far negatives concentrate the policy: kappa rises and the entropy falls (the categorical "
        "counterpart of 'far negatives shrink sigma').",
        SOURCE,
        verdict_of(pairs["entropy"].below() + pairs["kappa"].above(), 2),
        f"far negatives at rho 1 against positive-only: entropy {signed(pairs['entropy'])} nats, "
        f"kappa {plus_minus(pairs['kappa'], '+.3g', '.2g')} (paired by world, "
        "Bonferroni over 2)",
    )


def _control(modes: dict[str, Mode]) -> Claim:
    """Past rho = 1 on the local negative: signed against tapered."""
    held, of, evidence = 0, 0, []
    for mode in modes.values():
        *_, strong = mode.local.arms
        tapered = [name for name in mode.controls.arms if name.startswith("local")]
        lost = count(mode.events(strong), "task_collapse")
        kept = [name for name in tapered if count(mode.events(name), "task_collapse") == 0]
        held += (lost == mode.local.seeds) + len(kept)
        of += 1 + len(tapered)
        evidence.append(
            f"kappa {mode.name}: {strong} loses the task in {lost} of {mode.local.seeds} worlds, "
            f"{_list(kept)} in none"
        )
    return Claim(
        "A local negative past rho = 1 takes the task from the signed loss, not from tapered ones.",
        SOURCE,
        verdict_of(held, of),
        "; ".join(evidence),
    )


def _beats_positive_only(modes: dict[str, Mode]) -> Claim:
    better, worse, of = [], [], 0
    for mode in modes.values():
        tapered = [name for name, arm in mode.controls.arms.items() if arm.taper is not None]
        of += len(tapered)
        for name in tapered:
            gain = mode.gain(name, len(tapered) * len(modes))
            text = f"{name}, kappa {mode.name} {signed(gain)}"
            if gain.above():
                better.append(text)
            elif gain.below():
                worse.append(text)
    return Claim(
        "A tapered negative branch beats positive-only.",
        SOURCE,
        verdict_of(len(better), of),
        f"better: {_list(better)}. Worse: {_list(worse)} (expected reward, paired by world, "
        f"Bonferroni over {of})",
    )


def _list(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"
