"""What target ``cu1`` shows, from the cells' numbers alone."""

from __future__ import annotations

from torchrl_drpo.reproduction.controlled.cu1.claims import claims
from torchrl_drpo.reproduction.controlled.cu1.figures import figures
from torchrl_drpo.reproduction.controlled.cu1.forms import compare, largest_deviation
from torchrl_drpo.reproduction.controlled.cu1.tables import tables
from torchrl_drpo.reproduction.controlled.results import Runs
from torchrl_drpo.reproduction.target import Options, Results, Section

CELLS = ("response", "sources", "shapes", "sigma")


def section(options: Options, results: Results) -> Section:
    """The target's part of the report."""
    runs = {name: Runs(results[name]["result"]) for name in CELLS}
    sign = results["sign-rule"]["result"]
    return Section(
        "C-U1: continuous actions against closed forms",
        _text(runs),
        tables=tables(runs, sign),
        figures=figures(runs),
        claims=claims(runs, sign),
    )


def _text(runs: dict[str, Runs]) -> str:
    fixed = [runs[name] for name in CELLS[:3]]
    compared = {(id(r), n): c for r in fixed for n, c in compare(r).items()}
    (_, name), worst = largest_deviation(compared)
    response, seeds = runs["response"], runs["response"].seeds
    return (
        "A contextual bandit with two-dimensional actions in which everything that a signed loss "
        "does can be solved by hand. In units of the way from the positives' centroid (0) to the "
        "best action (1), a mean that repels from the negatives' centroid $m_-$ with mass ratio "
        "$\\rho$ rests at $-\\frac{\\rho}{1-\\rho} m_-$; under a taper, where the tapered forces "
        f"balance. {seeds} seeds (world, network, batches) of every arm were trained at once "
        f"through `RepulsiveLoss`, {response.steps[-1]:,} Adam steps from a common positive-only "
        f"start; the tables give means over the {response.window} held-out evaluations of the last "
        "fifth of a run, with 95% t intervals over seeds.\n\n"
        f"The largest relative deviation from the closed forms over all {len(compared)} arms that "
        f"have one and all their seeds is {worst:.2%} (arm '{name}'). A place is compared "
        "relative to its distance from the start or to one unit, whichever is larger; a reward "
        "relative to itself or to 0.1.\n\n"
        "Task collapse (reward below 45% of the seed's positive-only start in three evaluations in "
        "a row), support boundary (log sigma below -12) and NaN/Inf are events apart: where sigma "
        "is learned, most policies that reach the support boundary keep their mean and, with it, "
        "their reward."
    )
