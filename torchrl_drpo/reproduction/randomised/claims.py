"""What a first look at randomised ratings said, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchrl_drpo.report.formats import signed
from torchrl_drpo.reproduction.randomised.judge import GAUC, NDCG, VALUE
from torchrl_drpo.reproduction.randomised.methods import METHODS, NEW
from torchrl_drpo.reproduction.randomised.results import Difference, Run, differences
from torchrl_drpo.reproduction.randomised.tables import difference
from torchrl_drpo.reproduction.target import Claim, verdict

FIRST_LOOK = "a first look at Coat and Yahoo! R3 (1 or 2 seeds)"
#: In which the winner is compared.
COMPARED = (VALUE, GAUC, NDCG)
#: Two methods are alike where GAUC differs by less, interval and all.
ALIKE = 0.02


def claims(
    name: str, best: Mapping[str, Run], champion: Run, found: Mapping[str, Mapping[str, Difference]]
) -> list[Claim]:
    """The claims with their verdicts, on the reporting users of one file.

    Args:
        name: of the file.
        best: every method as it was chosen.
        champion: the winner on the choosing users.
        found: by metric and opponent, what the winner has above it.
    """
    new = METHODS[champion.method].kind in NEW
    out = [
        Claim(
            f"{name}: a tilted or a quality-conditioned policy wins on the choosing users",
            FIRST_LOOK,
            verdict([new]),
            f"the winner is {champion.label}, NDCG@5 {champion.choosing:.3f}",
        )
    ]
    for metric, by_opponent in found.items():
        said = f"{name}: the winner ({champion.label}) is above every opponent in {metric}"
        shown = "; ".join(f"{other} {difference(one)}" for other, one in by_opponent.items())
        ones = list(by_opponent.values())
        over_seeds = [new and one.holds for one in ones]
        out.append(Claim(f"{said}, over seeds", FIRST_LOOK, verdict(over_seeds), shown))
        over_users = [new and one.holds_over_users for one in ones]
        lost = [other for other, one in by_opponent.items() if not one.holds_over_users]
        told = f"not told apart from {', '.join(lost)}" if lost else "each interval lies above 0"
        out.append(Claim(f"{said}, over users", FIRST_LOOK, verdict(over_users), told))
    out += [_tilt(name, best, tilt) for tilt in best if METHODS[tilt].kind == "tilt"]
    out.append(_alike(name, best, ("DRPO", "tapered"), "positive-only"))
    out.append(
        _above(
            f"{name}: positive-only is above DRPO on a reward model's predictions (DRPO-Q)",
            best,
            "positive-only",
            ["DRPO-Q"],
        )
    )
    out.append(_alike(name, best, ("conditioned",), "positive-only, tilted"))
    return out


def _tilt(name: str, best: Mapping[str, Run], tilt: str) -> Claim:
    base = METHODS[tilt].base
    said = f"{name}: {tilt}, is above both its policy and its reward model alone"
    return _above(said, best, tilt, [base, "reward model alone"])


def _above(said: str, best: Mapping[str, Run], mine: str, others: Sequence[str]) -> Claim:
    opponents = [best[other] for other in others]
    parts, shown = [], []
    for metric in COMPARED:
        found = differences(best[mine], opponents, metric)
        parts += [one.holds for one in found.values()]
        shown += [f"{metric} less {other} {difference(one)}" for other, one in found.items()]
    return Claim(f"{said} in {', '.join(COMPARED)}", FIRST_LOOK, verdict(parts), "; ".join(shown))


def _alike(name: str, best: Mapping[str, Run], mine: Sequence[str], base: str) -> Claim:
    found = {one: differences(best[one], [best[base]], GAUC)[base].seeds for one in mine}
    parts = [abs(gap.mean) + gap.half_width < ALIKE for gap in found.values()]
    listed = " and ".join(mine)
    return Claim(
        f"{name}: {listed} {'are' if len(mine) > 1 else 'is'} like {base} (GAUC within {ALIKE:g})",
        FIRST_LOOK,
        verdict(parts),
        f"GAUC less that of {base}, paired by seed: "
        + "; ".join(f"{one} {signed(gap)}" for one, gap in found.items()),
    )
