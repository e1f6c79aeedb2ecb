"""What target ``du1`` shows: text and tables, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.report.formats import number, signed, spread
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.du1.claims import claims
from torchrl_drpo.reproduction.controlled.du1.figures import TITLES, figures
from torchrl_drpo.reproduction.controlled.du1.modes import MIN_ENTROPY, MODES, Mode
from torchrl_drpo.reproduction.controlled.results import describe
from torchrl_drpo.reproduction.target import Options, Results, Section


def section(options: Options, results: Results) -> Section:
    """The target's part of the report."""
    modes = {mode: Mode(results, mode) for mode in MODES}
    return Section(
        "D-U1: categorical actions, near and far negatives",
        _text(modes["fixed"]),
        tables=[_table(modes[mode], TITLES[mode]) for mode in MODES],
        figures=figures(modes),
        claims=claims(modes),
    )


def _text(fixed: Mode) -> str:
    runs = fixed.local
    return (
        "64 actions with embeddings; a policy points in a direction q(s) and plays "
        "softmax(kappa q.e). Its four positives are the best logged actions along t+, its local "
        "negative lies beside them on the wrong side, four far negatives opposite. Positives "
        "average to one positive and the negatives in use to one negative, so alpha is rho. "
        f"{runs.seeds} worlds of every arm were trained at once through `RepulsiveLoss`, "
        f"{runs.steps[-1]:,} Adam steps from the initial network; the tables give means over the "
        f"{runs.window} held-out evaluations of the last fifth of a run with 95% t intervals over "
        "worlds, and differences from positive-only paired by world. TOPR is min(pi/mu, 1) for a "
        "log that chose uniformly.\n\n"
        "A uniform policy already earns about 0.5 here, so task collapse is judged by the share of "
        "the way from the uniform policy's reward to the best action's: below 45% of "
        "positive-only's own late share in three evaluations in a row, after the first quarter of "
        f"the run. Support boundary: a mean entropy below {MIN_ENTROPY} nats. NaN/Inf is the third "
        "event. Where kappa is learned, expected reward also rises by concentration alone: a "
        "policy at the support boundary may earn more than one that still explores."
    )


def _table(mode: Mode, title: str) -> Table:
    rows = []
    for name, runs in mode.arms():
        mean = {
            metric: mean_interval(runs.late(metric, name)).mean
            for metric in (
                "entropy",
                "kappa",
                "local_remoteness",
                "far_remoteness",
                "largest_score_norm",
                "active_fraction",
            )
        }
        rows.append(
            [
                name,
                spread(runs.late("reward", name)),
                signed(paired_interval(runs.late("reward", name), mode.base("reward"))),
                number(mean["entropy"], 2),
                number(mean["kappa"], 1),
                number(mean["local_remoteness"], 1),
                number(mean["far_remoteness"], 1),
                number(mean["largest_score_norm"], 2),
                number(mean["active_fraction"], 2),
                describe(mode.events(name)),
            ]
        )
    return Table(
        f"D-U1, {title}",
        [
            "arm",
            "reward",
            "vs positive-only",
            "entropy",
            "kappa",
            "D local",
            "D far",
            "score",
            "active",
            "events",
        ],
        rows,
        note="alpha 0 is positive-only. D: surprisal in nats; score: largest |e_a - pi| of any "
        "negative; active: share of the negatives in use with w < 1. both: the local and the four "
        "far negatives, averaged over the five.",
    )
