"""A cell of ``randomised``: one seed on one file, every method at every value of its parameter.

A policy is looked at every few steps, and the choosing users say which of these looks is kept: to
stop early is part of a method, as of any that somebody would use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.pipeline.objectives.named import find_objective
from torchrl_drpo.policies.conditioned import make_conditioned_actor
from torchrl_drpo.policies.tilted import make_tilted_actor
from torchrl_drpo.reproduction.randomised.judge import NDCG, Judge, Sums, metrics_of
from torchrl_drpo.reproduction.randomised.learning import Learner, state_rows
from torchrl_drpo.reproduction.randomised.methods import METHODS, Job, Method, jobs
from torchrl_drpo.reproduction.randomised.ratings import CHOOSING_GROUPS, Ratings, read_ratings
from torchrl_drpo.rewards.catalogue import CatalogueReward

CHOOSING = slice(0, CHOOSING_GROUPS)
#: Of the sums that a cell keeps.
_DIGITS = 8


def run(
    name: str,
    path: str,
    digest: str,
    seed: int,
    training: Mapping[str, Any],
    reward: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that one seed says of one file.

    Args:
        name: what the ratings are called.
        path: where they lie.
        digest: of the file: of other contents a cell is another one.
        seed: see :class:`~torchrl_drpo.reproduction.randomised.learning.Learner`; so are
            ``training`` and ``reward``.
        training: numbers of a training run; ``evaluate_every`` is the steps between two looks.
        reward: numbers of the reward model.

    Returns:
        ``facts`` of the file; ``explained_variance`` of the reward model on rows of its log that
        it has not seen; ``runs``, one a method and value: ``method``, ``value``, the ``step`` that
        the choosing users kept, their NDCG at every look (``looks``) and the ``sums`` of that step.
    """
    ratings, judge = open_ratings(path, digest)
    learner = Learner(ratings, seed, training, reward)
    kept = _Kept()
    for name, value, sums in _rankings(ratings, judge, learner, seed):
        kept.see(name, value, 0, sums)
    states = state_rows(judge.user)
    for job in jobs():

        def look(step: int, actor: ProbabilisticActor, job: Job = job) -> None:
            for method, value in job.serves:
                served = _serve(method, value, actor, learner.critic)
                kept.see(method.name, value, step, judge.of_policy(served.get_dist(states).logits))

        learner.train(job, look)
    return {
        "facts": ratings.facts(),
        "explained_variance": learner.critic.explained_variance.item(),
        "runs": kept.runs,
    }


class _Kept:
    """Of every method and value, the look that the choosing users like best; the first of some."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, Any], dict[str, Any]] = {}

    def see(self, method: str, value: Any, step: int, sums: Sums) -> None:
        plain = {
            name: [[float(f"{x:.{_DIGITS}g}") for x in row] for row in both.tolist()]
            for name, both in sums.items()
        }
        found = round(metrics_of(plain, CHOOSING)[NDCG], _DIGITS)
        new = {"method": method, "value": value, "looks": []}
        run = self._runs.setdefault((method, value), new)
        if all(found > before for before in run["looks"]):
            run |= {"step": step, "sums": plain}
        run["looks"].append(found)

    @property
    def runs(self) -> list[dict[str, Any]]:
        return list(self._runs.values())


@lru_cache(maxsize=1)
def open_ratings(path: str, digest: str) -> tuple[Ratings, Judge]:
    """A file's ratings, read once a process and content."""
    ratings = read_ratings(Path(path))
    return ratings, Judge.of(ratings)


def _rankings(ratings: Ratings, judge: Judge, learner: Learner, seed: int) -> Any:
    """Name, value and sums of what no policy learns."""
    rows, items = ratings.train, ratings.num_items
    count = torch.bincount(rows.item, minlength=items).double()
    total = torch.zeros_like(count).index_add_(0, rows.item, rows.quality.double())
    shape = len(judge.user), items
    generator = torch.Generator().manual_seed(seed)
    yield "random", None, judge.of_ranking(torch.rand(shape, generator=generator))
    yield "popularity", None, judge.of_ranking(count.expand(shape))
    for prior in METHODS["item mean"].values:
        mean = (total + prior * rows.quality.double().mean()) / (count + prior)
        yield "item mean", prior, judge.of_ranking(mean.expand(shape))
    every = learner.critic.predict_all(state_rows(judge.user))
    yield "reward model alone", None, judge.of_ranking(every)


def _serve(
    method: Method, value: Any, actor: ProbabilisticActor, critic: CatalogueReward
) -> ProbabilisticActor:
    """What a method serves of a trained actor."""
    if method.kind == "tilt":
        return make_tilted_actor(actor, critic, value)
    if method.kind == "conditioned":
        return make_conditioned_actor(actor, value, away=method.away)
    if method.kind == "conditioned and tilted":
        asked = find_objective("conditioned-tilt").condition
        assert asked is not None
        return make_tilted_actor(make_conditioned_actor(actor, asked.guidance), critic, value)
    return actor
