"""Tables of ``randomised``: what each method is worth, what the winner has above it, the paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from torchrl_drpo.report.formats import number, plus_minus, signed
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.randomised.judge import GAUC, LISTS, METRICS, NDCG, VALUE
from torchrl_drpo.reproduction.randomised.results import Difference, Run, over_users

SHOWN = {
    VALUE: "value ↑",
    GAUC: "GAUC ↑",
    NDCG: "NDCG@5 ↑",
    **{f"like@{k}": f"like@{k} ↑" for k in LISTS},
}
assert tuple(SHOWN) == METRICS


def methods_table(name: str, best: Mapping[str, Run], champion: Run) -> Table:
    """Every method at the value that was chosen for it."""
    ordered = sorted(best.values(), key=lambda run: -run.choosing)
    rows = [
        [
            run.label,
            number(run.choosing),
            "" if max(run.steps) == 0 else f"{median(run.steps):g}",
            *(str(run.interval(metric)) for metric in SHOWN),
        ]
        for run in ordered
    ]
    users = {metric: over_users(metric, champion).half_width for metric in SHOWN}
    widths = ", ".join(f"{_plain(m)} ± {number(users[m])}" for m in SHOWN)
    return Table(
        f"{name}: every method as the choosing users chose it, on the reporting users",
        ["method", "NDCG@5, choosing", "steps", *SHOWN.values()],
        rows,
        emphasis=[ordered.index(champion)],
        note=f"{len(champion.sums)} seeds, 95% t intervals over seeds; bold: the winner on the "
        "choosing users. Value: expected rating (1 to 5) of what the policy serves if all items "
        "had been shown, self-normalised; a ranking serves its ten best alike. GAUC (AUC of likes, "
        "ratings of 4 and 5, within users) and NDCG@5 order a user's random ratings; like@k is the "
        f"share of likes among random ratings of the k best items. {_OVER_USERS} {widths}.",
    )


_OVER_USERS = "Over users (jackknife) the winner's intervals are wider:"


def differences_table(
    name: str, champion: Run, found: Mapping[str, Mapping[str, Difference]]
) -> Table:
    """What the winner has above every opponent, over seeds and over users.

    Args:
        name: of the file.
        champion: the winner.
        found: by metric and opponent.
    """
    header = ["opponent"]
    for metric in found:
        header += [f"{_plain(metric)}, seeds", "Holm p", "users"]
    rows = []
    for opponent in next(iter(found.values())):
        row = [opponent]
        for by_opponent in found.values():
            one = by_opponent[opponent]
            row += [signed(one.seeds), _p(one.p), f"± {number(one.users.half_width)}"]
        rows.append(row)
    return Table(
        f"{name}: {champion.label} less its opponents, reporting users",
        header,
        rows,
        note="Seeds: paired by seed, 95% t intervals (other training runs, these users); p of "
        "these, Holm-corrected over the opponents. Users: half width of the 95% jackknife "
        "interval of the same difference (these training runs, other users).",
    )


def paths_table(name: str, runs: Mapping[str, Sequence[Run]]) -> Table:
    """Every value of every parameter."""
    shown = (VALUE, GAUC, NDCG)
    rows = [
        [run.label, number(run.choosing), *(str(run.interval(metric)) for metric in shown)]
        for own in runs.values()
        for run in own
        if len(own) > 1
    ]
    return Table(
        f"{name}: every value of the parameters",
        ["method", "NDCG@5, choosing", *(SHOWN[metric] for metric in shown)],
        rows,
        note="By the second column a value is chosen; the others are of the reporting users.",
    )


def difference(one: Difference) -> str:
    """For a sentence."""
    return f"{signed(one.seeds)} (p {_p(one.p)}; users {plus_minus(one.users, '+.3f')})"


def _plain(metric: str) -> str:
    return SHOWN[metric].removesuffix(" ↑")


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")
