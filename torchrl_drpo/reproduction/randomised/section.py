"""The section of ``randomised``: one file of ratings after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.randomised.claims import COMPARED, claims
from torchrl_drpo.reproduction.randomised.figures import paths_figure
from torchrl_drpo.reproduction.randomised.judge import GAUC
from torchrl_drpo.reproduction.randomised.methods import OPPONENTS
from torchrl_drpo.reproduction.randomised.results import (
    Difference,
    Run,
    chosen,
    differences,
    runs_of,
    winner,
)
from torchrl_drpo.reproduction.randomised.tables import (
    difference,
    differences_table,
    methods_table,
    paths_table,
)
from torchrl_drpo.reproduction.target import Claim, Figure, Options, Results, Section

TITLE = "Randomised exposure: learned from chosen ratings, judged on random ones"
FILES = "<file> (user, item, rating, exposure: Coat, Yahoo! R3)"
COMMAND = "drpo reproduce randomised --ratings <file>"

_INTRODUCTION = """\
Users rated items of their own choice, and items that were shown to them at random. Policies learn
from the former; means over the latter are unbiased for uniform exposure, with no caveat about who
chose what. The state is the user's id, quality is (rating - 1) / 4, a like is a rating of 4 or 5.
A third of the judging users choose: where each run stops, the value of each method's parameter (by
the mean over seeds), and the winner, all by NDCG@5. All other numbers are of the other users. Each
opponent has a path of its own, as the tilt (tau) and the conditioned policy (guidance) have.\
"""


def section(options: Options, results: Results) -> Section:
    """The target's part of the report, from the cells' results alone."""
    if not options.ratings:
        return _untested()
    files: dict[str, list[Mapping[str, Any]]] = {}
    for record in results.values():
        files.setdefault(record["settings"]["name"], []).append(record)
    text, tables, figures, verdicts = [_INTRODUCTION], [], [], []
    for name, records in files.items():
        words, own_tables, figure, own_claims = _file(name, records)
        text.append(words)
        tables += own_tables
        figures.append(figure)
        verdicts += own_claims
    return Section(TITLE, "\n\n".join(text), tables, figures, verdicts)


def _file(
    name: str, records: Sequence[Mapping[str, Any]]
) -> tuple[str, list[Table], Figure, list[Claim]]:
    runs = runs_of(records)
    best = chosen(runs)
    champion = winner(best)
    opponents = [best[other] for other in OPPONENTS if other in best and best[other] != champion]
    found = {metric: differences(champion, opponents, metric) for metric in COMPARED}
    tables = [
        methods_table(name, best, champion),
        differences_table(name, champion, found),
        paths_table(name, runs),
    ]
    return (
        f"{_words(name, records)} {_result(champion, best, found)}",
        tables,
        paths_figure(name, runs),
        claims(name, best, champion, found),
    )


def _words(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    facts = records[0]["result"]["facts"]
    explained = [record["result"]["explained_variance"] for record in records]
    left_out = (
        f" {facts['known_pairs']:,} random ratings of pairs that a user had rated by choice, too, "
        f"and {facts['unknown_users']:,} users without such ratings are left out."
    )
    return (
        f"**{name}**: {facts['users']:,} users, {facts['items']:,} items, {facts['train_rows']:,} "
        f"self-selected ratings, {facts['judged_rows']:,} random ones of "
        f"{facts['choosing_users']:,} choosing and {facts['reporting_users']:,} reporting users; "
        f"{len(records)} seeds."
        f"{left_out} The reward model, cross-fitted by rows, explains "
        f"{sum(explained) / len(explained):.3f} of the variance of self-selected ratings that its "
        "member has not seen."
    )


def _result(
    champion: Run, best: Mapping[str, Run], found: Mapping[str, Mapping[str, Difference]]
) -> str:
    nearest = max(found[GAUC], key=lambda other: best[other].interval(GAUC).mean)
    shown = ", ".join(f"{metric} {champion.interval(metric)}" for metric in COMPARED)
    gaps = ", ".join(f"{metric} {difference(by[nearest])}" for metric, by in found.items())
    return (
        f"The choosing users' winner is **{champion.label}**: {shown}. The opponent of the best "
        f"GAUC is {nearest}; above it the winner has {gaps}."
    )


def _untested() -> Section:
    claim = Claim(
        "a tilted or a quality-conditioned policy wins on randomised exposure",
        "a first look at Coat and Yahoo! R3",
        "not tested",
        f"no ratings were given; `{COMMAND}` tests it",
    )
    text = f"Not tested: ratings are not part of this package. `{COMMAND}` tests it."
    return Section(TITLE, text, claims=[claim])
