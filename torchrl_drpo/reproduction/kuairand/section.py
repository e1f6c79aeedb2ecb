"""The section of ``kuairand``: what was run, and which objective to use when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrl_drpo.reproduction.kuairand.claims import claims, plain_winner
from torchrl_drpo.reproduction.kuairand.figures import frontier_figure
from torchrl_drpo.reproduction.kuairand.methods import label
from torchrl_drpo.reproduction.kuairand.results import (
    GAUC,
    HITS,
    LIFT,
    SHARES,
    Choice,
    Frontier,
    Runs,
    choices,
    frontiers,
    interval,
    recommended,
    runs_of,
)
from torchrl_drpo.reproduction.kuairand.tables import all_runs, checks, chosen_settings, dominance
from torchrl_drpo.reproduction.target import Claim, Options, Results, Section

TITLE = "A real log: every objective on KuaiRand, as frontiers"
LOG = "<folder>/log_standard_20220425_20220508.parquet"
COMMAND = f"drpo reproduce kuairand --logs {LOG}"


def section(options: Options, results: Results) -> Section:
    """The target's part of the report, from the cells' results alone."""
    if options.logs is None:
        return _untested()
    test, tuning = runs_of(results, "test"), runs_of(results, "tuning")
    facts = results["ends"]["result"]
    popularity = facts["popularity"]
    by_lift = frontiers(test, LIFT, (1.0, popularity[HITS]))
    by_gauc = frontiers(test, GAUC, (0.5, popularity[HITS]))
    chosen = {share: choices(tuning, test, share) for share in SHARES}
    tables = [
        all_runs(test, facts),
        dominance(by_lift, by_gauc),
        chosen_settings(chosen),
    ]
    checked = checks(results)
    return Section(
        title=TITLE,
        text=_text(test, facts, chosen, by_lift),
        tables=[*tables, checked] if checked.rows else tables,
        figures=[frontier_figure(test, facts)],
        claims=claims(test, popularity, by_lift),
    )


def _untested() -> Section:
    claim = Claim(
        "the objectives order as they did in a first look at KuaiRand",
        "a first look at this log",
        "not tested",
        f"no log was given; `{COMMAND}` tests it",
    )
    text = f"Not tested: the log is not part of this package. `{COMMAND}` tests it."
    return Section(TITLE, text, claims=[claim])


def _text(
    test: Runs,
    facts: Mapping[str, Any],
    chosen: Mapping[float, Mapping[str, Choice | None]],
    by_lift: Mapping[str, Frontier],
) -> str:
    parts = [
        f"KuaiRand-Pure, two weeks: {facts['train_rows']:,} training rows (11 days), "
        f"{facts['test_rows']:,} test rows (the last 3), quality = percentile of play time among "
        "videos of like duration, fitted on the training rows. Every method is a path along its "
        "own strength. Settings were chosen on days inside the training period. Explicit dislikes "
        f"are rare ({facts['hated_rows']} training rows carry `is_hate`), so OneRec-V2's recipe "
        "runs with them and, besides, with the worst quarter by quality in their place. CRR "
        "without a critic is the top half; TOPR, BPPO and ECPO weigh by logged propensities, which "
        "this log does not have. A policy is evaluated once, after its last step."
    ]
    advice = ["**Which objective when.**"]
    for share, by_method in chosen.items():
        name = recommended(by_method)
        choice = by_method[name]
        assert choice is not None  # recommended() returns one that was chosen
        advice.append(
            f"To keep {share:.0%} of BC's hits: {label(name, choice.strength)} (lift "
            f"{choice.lift}, {choice.hits} of BC's hits on the test days)."
        )
    largest = max(by_lift, key=lambda name: by_lift[name].area.mean)
    advice.append(f"The largest frontier in hit rate and lift is that of {largest}.")
    plain = plain_winner(test)
    advice.append(
        f"Plain hit rate over all rows, good and bad, would have chosen {label(*plain)} (lift "
        f"{interval(test, plain, LIFT)})."
    )
    return "\n\n".join([*parts, " ".join(advice)])
