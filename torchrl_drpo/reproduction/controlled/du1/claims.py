"""Events and verdicts of target ``du1``, computed from the cells' numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.reproduction.controlled.arms import Watch
from torchrl_drpo.reproduction.controlled.results import (
    Runs,
    above,
    below,
    count,
    signed,
    versus,
)
from torchrl_drpo.reproduction.target import Claim, Results, Verdict

SOURCE = "Dynamic Remoteness-Aware Policy Optimization (2026), D-U1"
MODES = ("fixed", "learned")
#: Mean entropy in nats below which a policy has come to one action: a perplexity of 1.05.
MIN_ENTROPY = 0.05


class Mode:
    """The arms with kappa fixed, or with kappa learned.

    Args:
        results: of all cells.
        mode: which.

    Attributes:
        local: the local negative alone over its strengths; the first arm is positive-only.
        controls: the other arms.
    """

    def __init__(self, results: Results, mode: str) -> None:
        self.name = mode
        self.local = Runs(results[f"local-{mode}"]["result"])
        self.controls = Runs(results[f"controls-{mode}"]["result"])

    def arms(self) -> Iterator[tuple[str, Runs]]:
        """All arms by name, with where they are."""
        for runs in (self.local, self.controls):
            for name in runs.arms:
                yield name, runs

    def of(self, name: str) -> Runs:
        """Where an arm is."""
        return self.local if name in self.local.arms else self.controls

    def base(self, metric: str) -> list[float]:
        """Late numbers of positive-only training, seed by seed."""
        return self.local.late(metric, self.local.first)

    def gain(self, name: str, comparisons: int = 1) -> Interval:
        """Late reward against positive-only, paired by seed."""
        return versus(self.of(name).late("reward", name), self.base("reward"), comparisons)

    def events(self, name: str) -> list[dict[str, int]]:
        """Events of an arm, seed by seed, by the share of the best reward and the entropy."""
        runs = self.of(name)
        references = [max(value, 1e-3) for value in self.base("share")]
        watch = Watch(references, warmup=runs.steps[-1] // 4, min_entropy=MIN_ENTROPY)
        shares, entropies = runs.evaluations("share", name), runs.evaluations("entropy", name)
        for step, share, entropy in zip(runs.steps, shares, entropies, strict=True):
            watch.update(step, reward=torch.tensor(share), entropy=torch.tensor(entropy))
        return watch.happened()


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
        held += above(gains[best]) + below(gains[strengths[-1]])
        evidence.append(
            f"kappa {mode.name}: best of {len(strengths)} {best} {signed(gains[best])}, "
            f"{strengths[-1]} {signed(gains[strengths[-1]])}"
        )
    return Claim(
        "Useful (local) negatives help until they do not: an inverted U over their strength.",
        SOURCE,
        _verdict(held, 2 * len(modes)),
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
    more = versus(far, base)
    return Claim(
        "Far negatives do not explode a categorical policy's gradient: the score stays below "
        "sqrt 2; their probability collapses instead.",
        "the same, bounds on the categorical score",
        _verdict((largest <= math.sqrt(2) + 1e-5) + above(more), 2),
        f"largest |e_a - pi| of any negative at any evaluation of all arms {largest:.6f}; "
        f"log pi of far negatives with kappa learned {-mean_interval(far).mean:.3g} against "
        f"{-mean_interval(base).mean:.3g} for positive-only",
    )


def _concentration(mode: Mode) -> Claim:
    name = "far, alpha 1"
    pairs = {
        metric: versus(mode.controls.late(metric, name), mode.base(metric), 2)
        for metric in ("entropy", "kappa")
    }
    return Claim(
        "Far negatives concentrate the policy: kappa rises and the entropy falls (the categorical "
        "counterpart of 'far negatives shrink sigma').",
        SOURCE,
        _verdict(below(pairs["entropy"]) + above(pairs["kappa"]), 2),
        f"far negatives at rho 1 against positive-only: entropy {signed(pairs['entropy'])} nats, "
        f"kappa {pairs['kappa'].mean:+.3g} ± {pairs['kappa'].half_width:.2g} (paired by world, "
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
        _verdict(held, of),
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
            if above(gain):
                better.append(text)
            elif below(gain):
                worse.append(text)
    return Claim(
        "A tapered negative branch beats positive-only.",
        SOURCE,
        _verdict(len(better), of),
        f"better: {_list(better)}. Worse: {_list(worse)} (expected reward, paired by world, "
        f"Bonferroni over {of})",
    )


def _list(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


def _verdict(held: int, of: int) -> Verdict:
    return "held" if held == of else "held in part" if held else "not held"
