"""What target ``divergence`` shows, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.formats import plus_minus
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.divergence.claims import claims
from torchrl_drpo.reproduction.simulator.divergence.figures import draw
from torchrl_drpo.reproduction.simulator.divergence.series import (
    SETTINGS,
    TRAINED,
    growth,
    ratio,
    window,
)
from torchrl_drpo.reproduction.target import Figure, Options, Results, Section


def section(options: Options, results: Results) -> Section:
    """Growth, ratios, the sign rule and the on-policy identity."""
    settings = results["table.positive-only"]["settings"]
    grown = {s: mean_interval(growth(results, f"{s}.positive-only")) for s in SETTINGS}
    text = (
        "Policies learn from the positives alone (rewards above the mean) on the extreme mixture; "
        "every so often the gradients of both kinds of rows are taken on a fixed probe of 1,000 "
        "rows, and not applied. The negatives' gradient, which nothing in the training answers, "
        + " and ".join(f"grows {grown[s].mean:.1f} times ({s} setting)" for s in SETTINGS)
        + f" in {settings['schedule']['steps']:,} steps. APG, which applies it, is watched beside. "
        "A negative pushes entry j of log sigma by $-|A| (z_j^2 - 1)$: near negatives widen the "
        "policy, far ones ($z_j^2 > 1$) narrow it, and a narrower policy finds everything farther "
        f"away. {len(settings['seeds'])} seeds."
    )
    return Section(
        "Divergence",
        text,
        tables=[_table(results)],
        figures=[
            Figure(
                "divergence",
                "Left: norm of the negatives' gradient over its first value, under positive-only "
                "training (solid) and under APG (dashed). Middle: repulsion over attraction under "
                "positive-only training, in log sigma (solid) and in the mean (dashed). Right: "
                "mean log sigma.",
                lambda canvas: draw(canvas, results),
                size=(11.0, 3.4),
            )
        ],
        claims=claims(results),
    )


def _table(results: Results) -> Table:
    rows = []
    for words, of in (
        ("growth of the negatives' gradient", growth),
        ("repulsion / attraction, log sigma", lambda r, c: ratio(r, c, "sigma")),
        ("repulsion / attraction, mean", lambda r, c: ratio(r, c, "mean")),
        ("negatives' mean z^2", lambda r, c: window(r, c, "remoteness")),
        ("dimensions in which negatives narrow", lambda r, c: window(r, c, "shrinking")),
        ("off-policy score^2 / tr(Sigma^-1)", lambda r, c: window(r, c, "off_policy")),
        ("on-policy score^2 / tr(Sigma^-1)", lambda r, c: window(r, c, "on_policy")),
        ("RMS of the mean's entries", lambda r, c: window(r, c, "mean_norm")),
        ("mean log sigma", lambda r, c: window(r, c, "log_sigma")),
    ):
        found = [
            mean_interval(of(results, f"{setting}.{name}"))
            for name in TRAINED
            for setting in SETTINGS
        ]
        rows.append([words, *(plus_minus(f, ".3g", ".2g") for f in found)])
    header = [f"{name}, {setting}" for name in TRAINED for setting in SETTINGS]
    return Table(
        "The last fifth of the run",
        ["", *header],
        rows,
        note="Published for positive-only training: growth about 9, ratios about 58 (sigma) and "
        "2 (mean).",
    )
