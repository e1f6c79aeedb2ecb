"""Target ``sensitivity``: a fixed filter against reward noise and the expert's noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import Interval, mean_interval, paired_interval
from torchrl_drpo.report.formats import plus_minus
from torchrl_drpo.report.methods import SERIES
from torchrl_drpo.report.plots import axes_of, draw_line
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.published import FIXED_RATIO
from torchrl_drpo.reproduction.simulator.results import ecpm, late
from torchrl_drpo.reproduction.simulator.runs import method_cell
from torchrl_drpo.reproduction.target import (
    Cell,
    Claim,
    Figure,
    Options,
    Results,
    Section,
    Target,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

RATIOS = (0.05, 0.4, 1.0)
REWARD_NOISE = (0.0, 0.5, 1.0)
POLICY_NOISE = (0.1, 0.5)
STEPS = 1_500
_WHERE = "arXiv 2602.10430, fixed ratio against noise"


def cells(options: Options) -> Sequence[Cell]:
    """DRPO at every fixed ratio, reward noise and policy noise, on the medium mixture."""
    return [
        method_cell(
            "sensitivity",
            _name(ratio, reward, policy),
            {"rule": "TopFraction", "kappa": ratio},
            {
                "setting": "table",
                "scenario": "medium",
                "changes": {"reward_noise": reward, "expert_noise": policy},
                "users": 512,
            },
            options,
            steps=STEPS,
            evaluations=15,
        )
        for policy in POLICY_NOISE
        for reward in REWARD_NOISE
        for ratio in RATIOS
    ]


def _name(ratio: float, reward: float, policy: float) -> str:
    return f"top-{ratio}.reward-{reward}.policy-{policy}"


def _ecpm(results: Results, ratio: float, reward: float, policy: float) -> list[float]:
    return ecpm(late(results, _name(ratio, reward, policy)))


def _difference(
    results: Results, ratio: float, other: float, reward: float, policy: float
) -> Interval:
    return paired_interval(
        _ecpm(results, ratio, reward, policy), _ecpm(results, other, reward, policy), comparisons=6
    )


def section(options: Options, results: Results) -> Section:
    """The published table again, and when a hard filter pays."""
    settings = results[_name(0.05, 0.0, 0.1)]["settings"]
    low, high = (_difference(results, 0.05, 1.0, noise, 0.1) for noise in (0.0, 1.0))
    text = (
        "DRPO with a fixed ratio (linear weights, no controller) on the medium mixture of the "
        "table setting: the top 5%, the top 40% or all rows, while observed rewards carry noise "
        "of 0, 0.5 or 1 (before clipping to [0, 1]) and the expert sees interests through noise "
        f"of .1 or .5. {len(settings['seeds'])} seeds, {settings['schedule']['steps']:,} steps. "
        f"At policy noise .1, the top 5% against all rows is worth "
        f"{plus_minus(low, '+.2f')} eCPM with exact rewards and "
        f"{plus_minus(high, '+.2f')} at reward noise 1: the filter's merit is the reward's."
    )
    return Section(
        "Fixed ratio against noise",
        text,
        tables=[_table(results)],
        figures=[
            Figure(
                "sensitivity",
                "eCPM by reward noise for each fixed ratio; dotted: the published numbers.",
                lambda canvas: _draw(canvas, results),
            )
        ],
        claims=_claims(results),
    )


def _table(results: Results) -> Table:
    rows = []
    for policy in POLICY_NOISE:
        for reward in REWARD_NOISE:
            row = [f"{policy:g}", f"{reward:g}"]
            for ratio in RATIOS:
                found = mean_interval(_ecpm(results, ratio, reward, policy))
                row.append(plus_minus(found, ".2f"))
                row.append(f"{FIXED_RATIO[policy, reward][ratio]:.2f}")
            rows.append(row)
    header = ["policy noise", "reward noise"]
    for words in ("top 5%", "top 40%", "all"):
        header += [words, "paper"]
    return Table("eCPM by the fixed ratio", header, rows)


def _claims(results: Results) -> list[Claim]:
    def of(ratio: float, other: float, reward: float, policy: float) -> tuple[bool, str]:
        found = _difference(results, ratio, other, reward, policy)
        return found.above(), f"{plus_minus(found, '+.2f')} (policy noise {policy:g})"

    exact = [of(0.05, 1.0, 0.0, policy) for policy in POLICY_NOISE]
    noisy = [of(1.0, 0.05, 1.0, policy) for policy in POLICY_NOISE]
    best = [of(0.05, 0.4, 0.0, policy) for policy in POLICY_NOISE]
    falls = [
        all(
            mean_interval(_ecpm(results, ratio, a, policy)).mean
            > mean_interval(_ecpm(results, ratio, b, policy)).mean
            for a, b in pairwise(REWARD_NOISE)
        )
        for ratio in RATIOS
        for policy in POLICY_NOISE
    ]
    return [
        Claim(
            "With exact rewards the top 5% beats training on all rows",
            _WHERE,
            verdict([held for held, _ in exact]),
            "eCPM, top 5% minus all: " + "; ".join(words for _, words in exact),
        ),
        Claim(
            "With reward noise 1 the order is reversed: all rows beat the top 5%",
            _WHERE,
            verdict([held for held, _ in noisy]),
            "eCPM, all minus top 5%: " + "; ".join(words for _, words in noisy),
        ),
        Claim(
            "With exact rewards the top 5% is the best ratio, not worse than the top 40%",
            "first look",
            verdict([held for held, _ in best]),
            "eCPM, top 5% minus top 40%: " + "; ".join(words for _, words in best),
        ),
        Claim(
            "Reward noise lowers every ratio's eCPM",
            _WHERE,
            verdict(falls),
            f"{sum(falls)} of {len(falls)} series fall throughout",
        ),
    ]


def _draw(canvas: Canvas, results: Results) -> None:
    colours = dict(zip(RATIOS, SERIES[:3], strict=True))
    for axes, policy in zip(axes_of(canvas, 2, sharey=True), POLICY_NOISE, strict=True):
        for ratio in RATIOS:
            rows = [_ecpm(results, ratio, reward, policy) for reward in REWARD_NOISE]
            words = "all rows" if ratio == 1 else f"top {ratio:.0%}"
            draw_line(axes, REWARD_NOISE, rows, words, color=colours[ratio])
            paper = [FIXED_RATIO[policy, reward][ratio] for reward in REWARD_NOISE]
            axes.plot(REWARD_NOISE, paper, ":", color=colours[ratio], marker="x", markersize=4)
        axes.set_title(f"policy noise {policy:g}")
        axes.set_xlabel("reward noise")
    canvas.axes[0].set_ylabel("eCPM")
    canvas.axes[0].legend(fontsize=7)


TARGET = Target("sensitivity", "fixed ratio against reward and policy noise", cells, section)
