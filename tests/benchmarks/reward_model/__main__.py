"""What a better reward model buys, judged on ratings of items that were shown at random.

    python -m tests.benchmarks.reward_model --ratings coat/ratings.parquet --seeds 5

Every variant changes one thing of the model that ``drpo reproduce randomised`` fits. Two things are
asked of it: how much of the variance of ratings within users it explains, on rows of its own log
that its member has not seen and on random ratings; and what policies gain that are tilted by it,
pi exp(Q / tau). Steps and tau are chosen on the choosing users, numbers are of the others; gains
are paired by seed. ``--only`` runs some of the variants. Written: ``results/reward_model``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.reward_model.fits import Fits, Variant
from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.policies.encoders import EncoderConfig
from torchrl_drpo.report.formats import number, signed
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.randomised.judge import GAUC, NDCG, VALUE, Judge, Sums, metrics_of
from torchrl_drpo.reproduction.randomised.learning import Learner, state_rows
from torchrl_drpo.reproduction.randomised.methods import TAUS, jobs
from torchrl_drpo.reproduction.randomised.ratings import (
    CHOOSING_GROUPS,
    SELF_SELECTED,
    Ratings,
    read_ratings,
)
from torchrl_drpo.reproduction.randomised.target import REWARD, TRAINING, name_of

CHOOSING, REPORTING = slice(0, CHOOSING_GROUPS), slice(CHOOSING_GROUPS, None)
BASES = ("BC", "positive-only")
REFERENCE = "as it is"


def _encoder(kind: str, feedback: bool = True) -> EncoderConfig:
    return EncoderConfig(
        kind, hidden=(64,), pooling="mean", layers=1, dropout=0.2, feedback=feedback
    )


VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant("5 folds, width 32, lr .001, weight decay .01"),
    **{f"{n} folds": Variant("folds", folds=n) for n in (2, 10)},
    **{f"width {n}": Variant("width", dim=n) for n in (4, 8, 128)},
    "no hidden layer": Variant("width", hidden=()),
    **{f"learning rate {x:g}": Variant("steps", learning_rate=x) for x in (3e-4, 3e-3)},
    **{f"weight decay {x:g}": Variant("shrinkage", weight_decay=x) for x in (0.0, 0.1, 1.0)},
    "item biases start at item means": Variant("shrinkage", less="item"),
    "rewards less the user's mean": Variant("shrinkage", less="user"),
    **{f"ensemble of {5 * n}": Variant("ensemble", repeats=n) for n in (2, 4)},
    **{
        f"ensemble of 10, Q {-c:+g} sd": Variant("pessimism", repeats=2, pessimism=c)
        for c in (-1.0, 0.5, 1.0, 2.0)
    },
    "history without feedback": Variant("user's ratings", encoder=_encoder("pooling", False)),
    "history": Variant("user's ratings", encoder=_encoder("pooling")),
    "history alone": Variant("user's ratings", encoder=_encoder("pooling"), user=False),
    "history, GRU": Variant("user's ratings", encoder=_encoder("gru")),
    "history, transformer": Variant("user's ratings", encoder=_encoder("transformer")),
    "history, ensemble of 10": Variant("user's ratings", encoder=_encoder("pooling"), repeats=2),
    "less the user's mean, ensemble of 10": Variant("both", less="user", repeats=2),
    "less the user's mean, history": Variant("both", less="user", encoder=_encoder("pooling")),
    "rows weighed by propensities": Variant("propensities", propensities="ips"),
    "doubly robust targets": Variant("propensities", propensities="dr"),
}


@dataclass
class Found:
    """What a variant was found to be, a number a seed each."""

    numbers: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **numbers: float) -> None:
        """One seed."""
        for name, value in numbers.items():
            self.numbers.setdefault(name, []).append(value)


# -- what they are worth --------------------------------------------------------------------------


def explained_within(predicted: Tensor, actual: Tensor, user: Tensor) -> float:
    """Share of the variance within users that predictions explain, as they are.

    Example:
        >>> user = torch.tensor([0, 0, 1, 1])
        >>> explained_within(torch.tensor([0.0, 1, 5, 6]), torch.tensor([3.0, 4, 3, 4]), user)
        1.0
    """
    _, user = user.unique(return_inverse=True)

    def centred(values: Tensor) -> Tensor:
        total = torch.zeros(int(user.max()) + 1, dtype=torch.float64)
        total.index_add_(0, user, values.double())
        return values.double() - (total / user.bincount())[user]

    error = centred(predicted) - centred(actual)
    return 1 - (error.square().sum() / centred(actual).square().sum()).item()


class Study:
    """Policies of one seed, trained once, that every variant tilts.

    Args:
        variants: what is asked for.
        ratings: the file's.
        propensity: see :class:`~tests.benchmarks.reward_model.fits.Fits`.
        seed: of the run.
    """

    def __init__(
        self, variants: list[Variant], ratings: Ratings, propensity: Tensor | None, seed: int
    ) -> None:
        self._ratings = ratings
        self._judge = Judge.of(ratings)
        self._states = state_rows(self._judge.user)
        self._fits = Fits(variants, ratings, self._judge.user, propensity, seed)
        self._looks: dict[str, list[Tensor]] = {}
        learner = Learner(ratings, seed, TRAINING, REWARD)
        for job in jobs():
            method, value = job.serves[0]
            if method.name in BASES and value == method.values[0]:
                looks = self._looks[method.name] = []
                learner.train(
                    job, lambda _, actor, to=looks: to.append(actor.get_dist(self._states).logits)
                )

    def base(self, name: str) -> Iterator[tuple[Any, Sums]]:
        """A policy as it is, at every look."""
        for log_prob in self._looks[name]:
            yield None, self._judge.of_policy(log_prob)

    def judged(self, variant: Variant) -> tuple[dict[str, float], dict[str, Any]]:
        """Numbers of a variant; and by base and tau the sums of the look that was kept."""
        predictions = self._fits.of(variant)
        score = predictions.scores(variant.pessimism)
        train, rows = self._ratings.train, self._ratings.judged
        reporting = self._ratings.group[rows.user] >= CHOOSING_GROUPS
        place = torch.searchsorted(self._judge.user, rows.user)
        random = rows[reporting]
        alone = _metrics(self._judge.of_ranking(score), REPORTING)
        numbers = {
            "within, own log": explained_within(predictions.own, train.quality, train.user),
            "within, random": explained_within(
                score[place, rows.item][reporting], random.quality, random.user
            ),
            **{f"alone {name}": alone[name] for name in (NDCG, GAUC)},
        }
        kept = {
            base: {
                tau: best(self._judge.of_policy(log_prob + score / tau) for log_prob in looks)
                for tau in TAUS
            }
            for base, looks in self._looks.items()
        }
        return numbers, kept


def _metrics(sums: Sums, groups: slice) -> dict[str, float]:
    return metrics_of({name: both.tolist() for name, both in sums.items()}, groups)


def best(looks: Iterator[Sums]) -> tuple[float, dict[str, float]]:
    """The look that the choosing users like best: their NDCG, and the others' metrics."""
    found = [(_metrics(sums, CHOOSING)[NDCG], _metrics(sums, REPORTING)) for sums in looks]
    return max(found, key=lambda each: each[0])


def tilted(kept: list[Mapping[float, tuple[float, dict[str, float]]]]) -> tuple[float, list[dict]]:
    """The tau that the choosing users like best over seeds, and each seed's metrics there."""
    tau = max(TAUS, key=lambda t: fmean(seed[t][0] for seed in kept))
    return tau, [seed[tau][1] for seed in kept]


# -- the table ------------------------------------------------------------------------------------


class Record:
    """What was found so far.

    Args:
        names: of the variants.
    """

    def __init__(self, names: list[str]) -> None:
        self._numbers = {name: Found() for name in names}
        self._kept: dict[str, Any] = {name: {base: [] for base in BASES} for name in names}
        self._plain: dict[str, list[dict[str, float]]] = {base: [] for base in BASES}

    @property
    def names(self) -> list[str]:
        """Of the variants."""
        return list(self._kept)

    def add(self, study: Study, said: Callable[[str], None]) -> None:
        """One seed."""
        for base in BASES:
            self._plain[base].append(best(sums for _, sums in study.base(base))[1])
        for name, kept in self._kept.items():
            found, its = study.judged(VARIANTS[name])
            self._numbers[name].add(**found)
            for base in BASES:
                kept[base].append(its[base])
            said(f"{name}: {found['within, random']:.3f}")

    def to_json(self) -> dict[str, Any]:
        """By variant: numbers a seed, and by base the tau and each seed's metrics."""
        variants = {}
        for name, kept in self._kept.items():
            chosen = {base: tilted(kept[base]) for base in BASES}
            tilts = {base: {"tau": tau, "seeds": seeds} for base, (tau, seeds) in chosen.items()}
            variants[name] = {"numbers": self._numbers[name].numbers, **tilts}
        return {"plain": self._plain, "variants": variants}


def tables(found: Any) -> list[Table]:
    """The models, and what policies gain by them."""
    variants = found["variants"]
    reference = variants[REFERENCE]
    models, gains = [], []
    for name, one in variants.items():
        numbers, base = one["numbers"], reference["numbers"]
        kind = VARIANTS[name].what
        models.append([name, kind, *(
            number(fmean(numbers[each])) if name == REFERENCE
            else signed(paired_interval(numbers[each], base[each]))
            for each in ("within, own log", "within, random", f"alone {NDCG}", f"alone {GAUC}")
        )])  # fmt: skip
        row = [name]
        for policy in BASES:
            row.append(f"{one[policy]['tau']:g}")
            for metric in (VALUE, GAUC, NDCG):
                mine = [seed[metric] for seed in one[policy]["seeds"]]
                its = [seed[metric] for seed in reference[policy]["seeds"]]
                row.append(str(mean_interval(mine)) if name == REFERENCE
                           else signed(paired_interval(mine, its)))  # fmt: skip
        gains.append(row)
    for policy in BASES:
        plain = found["plain"][policy]
        row = [f"{policy} itself"] + [""] * (4 * BASES.index(policy))
        for metric in (VALUE, GAUC, NDCG):
            mine = [seed[metric] for seed in plain]
            its = [seed[metric] for seed in reference[policy]["seeds"]]
            row += ([""] if metric == VALUE else []) + [signed(paired_interval(mine, its))]
        gains.append(row)
    first = Table(
        "The models",
        ["variant", "what", "explained within users, own log", "the same, random ratings",
         "alone, NDCG@5", "alone, GAUC"],
        models,
    )  # fmt: skip
    header = ["variant"]
    for policy in BASES:
        header += [f"tau, {policy}", "value", "GAUC", "NDCG@5"]
    return [first, Table("What tilted policies gain", header, gains)]


def main() -> None:
    """Writes ``<name>.json`` and ``<name>.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/reward_model"))
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--only", nargs="*", default=[], choices=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in VARIANTS if name in arguments.only or not arguments.only]
    ratings, propensity = read_ratings(arguments.ratings), propensities(arguments.ratings)
    if propensity is None:
        names = [name for name in names if not VARIANTS[name].propensities]
    record = Record(list(dict.fromkeys([REFERENCE, *names])))
    name = name_of(arguments.ratings.resolve())
    for seed in range(arguments.seeds):
        study = Study([VARIANTS[name] for name in record.names], ratings, propensity, seed)
        record.add(study, lambda line, at=seed: print(f"seed {at}, {line}", flush=True))  # noqa: T201
        found = record.to_json()
        write_json(arguments.out / f"{name}.json", found)
        if seed:  # one has no interval
            write_text(arguments.out / f"{name}.md", page(name, ratings, found, seed + 1))


def propensities(path: Path) -> Tensor | None:
    """Those of the self-selected rows, if the file has them."""
    from pyarrow import csv, parquet

    table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    if "propensity" not in table.column_names:
        return None
    chosen = table["exposure"].to_numpy(zero_copy_only=False) == SELF_SELECTED
    return torch.tensor(table["propensity"].to_numpy()[chosen])


def page(name: str, ratings: Ratings, found: Any, seeds: int) -> str:
    """The page of a file."""
    facts = ratings.facts()
    lines = [
        f"# What a better reward model buys: {name}",
        "",
        f"{facts['train_rows']:,} self-selected ratings train, {facts['judged_rows']:,} random "
        f"ones judge; {facts['choosing_users']} users choose steps and tau, numbers are of the "
        f"other {facts['reporting_users']}. {seeds} seeds, 95% t intervals; of all variants but "
        f"the first, *{REFERENCE}*, the difference to it, paired by seed. Made by "
        "`python -m tests.benchmarks.reward_model`.",
    ]
    left_out = [each for each in VARIANTS if each not in found["variants"]]
    lines[-1] += " Each tau is the one that was chosen for the row, so value and order may trade."
    if left_out:
        lines[-1] += f" Not run: {'; '.join(left_out)}."
    for table in tables(found):
        lines += ["", f"## {table.title}", "", table.to_markdown()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
