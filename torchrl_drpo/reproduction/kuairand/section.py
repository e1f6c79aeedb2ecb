"""The section of ``kuairand``: what was run, and which objective to use when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrl_drpo.reproduction.kuairand.choices import SHARES, Choices, choices, recommended
from torchrl_drpo.reproduction.kuairand.claims import claims, plain_winner
from torchrl_drpo.reproduction.kuairand.figures import frontier_figure
from torchrl_drpo.reproduction.kuairand.methods import AT_SERVING, label
from torchrl_drpo.reproduction.kuairand.results import (
    HITS,
    LIFT,
    WITHIN,
    Frontier,
    Runs,
    frontiers,
    interval,
    listed,
    outside,
    runs_of,
)
from torchrl_drpo.reproduction.kuairand.tables import (
    against,
    all_runs,
    checks,
    chosen_settings,
    dominance,
)
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
    by_within = frontiers(test, WITHIN, (1.0, popularity[HITS]))
    by_lift = frontiers(test, LIFT, (1.0, popularity[HITS]))
    chosen = {share: choices(tuning, test, share) for share in SHARES}
    tables = [
        all_runs(test, facts),
        against(test, chosen),
        dominance(by_within, by_lift),
        chosen_settings(chosen),
    ]
    checked = checks(results)
    winner = recommended(chosen[SHARES[0]], AT_SERVING)
    return Section(
        title=TITLE,
        text="\n\n".join([*_what(results), _advice(test, chosen, by_within)]),
        tables=[*tables, checked] if checked.rows else tables,
        figures=[frontier_figure(test, facts)],
        claims=claims(test, popularity, by_lift, by_within, winner),
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


def _what(results: Results) -> list[str]:
    facts: Mapping[str, Any] = results["ends"]["result"]
    critic: Mapping[str, Any] = results["reward-test"]["result"]
    return [
        f"KuaiRand-Pure, two weeks: {facts['train_rows']:,} training rows (11 days), "
        f"{facts['test_rows']:,} test rows (the last 3), quality = percentile of play time among "
        "videos of like duration, fitted on the training rows. Every method is a path along its "
        "own strength. Settings were chosen on days inside the training period. Explicit dislikes "
        f"are rare ({facts['hated_rows']} training rows carry `is_hate`), so OneRec-V2's recipe "
        "runs with them and, besides, with the worst quarter by quality in their place. CRR "
        "without a critic is the top half; TOPR, BPPO and ECPO weigh by logged propensities, which "
        "this log does not have. A policy is evaluated once, after its last step.",
        "The critic is the reward model of `drpo train`, fitted once to the training rows of each "
        "part; of rows that it has not seen it explains "
        f"{critic['explained_variance']:.1%} of the variance of quality, "
        f"{critic['explained_variance_of_state']:.1%} without the item. Names in lower case follow "
        "it as `drpo train` does. *Tilt*: the trained policy times exp(Q / tau), at serving. "
        "*Conditioned*: all rows cloned with their quarter of quality as one more input, served "
        "with the best quarter and guided away from the worst; its tilts start from the best "
        "quarter, guided by 0 or 1.",
    ]


def _advice(test: Runs, chosen: Mapping[float, Choices], by_within: Mapping[str, Frontier]) -> str:
    advice = ["**Which objective when.**"]
    for share, by_path in chosen.items():
        best = recommended(by_path)
        if best is not None:
            advice.append(
                f"To keep {share:.0%} of BC's hits: {label(best.key)} (lift within tabs "
                f"{best.within}, {best.hits} of BC's hits on the test days)."
            )
    advice.append(
        "Outside positive-only's frontier in hits and lift within tabs lie, the largest first: "
        f"{listed(outside(by_within))}."
    )
    largest = max(by_within, key=lambda name: by_within[name].alone.mean)
    advice.append(
        f"The common frontier of all would lack most without {largest} ({by_within[largest].alone} "
        "thousandths)."
    )
    plain = plain_winner(test)
    advice.append(
        f"Plain hit rate over all rows, good and bad, would have chosen {label(plain)} (lift "
        f"{interval(test, plain, LIFT)})."
    )
    return " ".join(advice)
