"""The cells of ``kuairand``: a method at a strength, served in all its ways, and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.evaluation.ranking import CatalogueScores, ranking_metrics, without_groups
from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.scores import (
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.pipeline.table import metrics_json, number
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.reproduction.kuairand.methods import method
from torchrl_drpo.reproduction.kuairand.paths import Method
from torchrl_drpo.reproduction.kuairand.policy import fast_precision, make_actor
from torchrl_drpo.reproduction.kuairand.reward import open_reward
from torchrl_drpo.reproduction.kuairand.split import HISTORY, Split, open_split
from torchrl_drpo.rewards import AnnotatedBuffer

#: Scores of a block that stay in a CPU's cache: a quarter of the time of the default's 64 MiB.
SCORES_AT_A_TIME = 2**20
#: The lists that policies are compared by.
K = 50
#: Metrics that are kept without each group of users, for intervals of differences.
BY_USER = (
    f"hr@{K}_best", f"lift@{K}", f"lift@{K}_within", f"hr@{K}_best_lowest",
    "gauc_quality", "gauc_quality_within",
)  # fmt: skip


def ends(logs: str, rows: int | None = None) -> dict[str, Any]:
    """The rankings that need no policy, on the test days, and the counts of the log."""
    split = open_split(logs, "test", rows)
    train = split.data.log.split("train")
    target, items = split.held_out.action, split.data.num_items
    popularity = popularity_scores(split.data.train_items(), items, target)
    return {
        "random": _metrics(random_scores(items, target), split),
        "popularity": _metrics(popularity, split),
        "train_rows": len(train),
        "test_rows": len(split.rows),
        "items": items,
        "hated_rows": int((train.column("is_hate") > 0).sum()),
    }


def train(
    logs: str,
    part: str,
    name: str,
    strength: float,
    seeds: list[int],
    run: Mapping[str, Any],
    precision: str,
    device: str,
    reward: Mapping[str, Any],
    rows: int | None = None,
) -> dict[str, Any]:
    """Trains a method at one strength for some seeds and evaluates each after its last step.

    Args:
        logs: the KuaiRand log.
        part: see :func:`~torchrl_drpo.reproduction.kuairand.split.open_split`.
        name: of the method.
        strength: value of its parameter.
        seeds: of the initial policy and of the order of the rows.
        run: ``steps``, ``batch_size`` and ``learning_rate``.
        precision: see :func:`~torchrl_drpo.reproduction.kuairand.policy.make_actor`.
        device: where to train.
        reward: see :func:`~torchrl_drpo.reproduction.kuairand.reward.open_reward`.
        rows: judge on the first so many rows only.

    Returns:
        ``paths``: by path and strength what the policy was worth that is served so: ``metrics``,
        one entry a seed, and, on the test days, ``without``, metrics without each group of users,
        averaged over seeds; ``report``, what the loss said of itself over the last fifth of the
        steps, averaged over steps and seeds; ``precision``, in which it was trained.
    """
    split, chosen = open_split(logs, part, rows), method(name)
    asked = chosen.asks_critic(strength)
    reward_model = open_reward(logs, part, reward, device) if asked else None
    precision = fast_precision(device) if precision == "auto" else precision
    paths: dict[str, dict[str, dict[str, list[Any]]]] = {}
    reports = []
    for seed in seeds:
        actor, report = _trained(
            split, chosen, strength, seed, run, precision, device, reward_model
        )
        reports.append(report)
        critic = None if reward_model is None else reward_model.model
        for (path, value), served in chosen.policies(actor, strength, critic):
            scores = policy_scores(served, split.blocks(), SCORES_AT_A_TIME)
            found = paths.setdefault(path, {}).setdefault(
                f"{value:g}", {"metrics": [], "without": []}
            )
            found["metrics"].append(_metrics(scores, split))
            if part == "test":
                found["without"].append(_without_groups(scores, split))
    return {
        "paths": {
            path: {
                value: {"metrics": found["metrics"], "without": _means(found["without"])}
                for value, found in by_value.items()
            }
            for path, by_value in paths.items()
        },
        "report": metrics_json(
            {k: float(np.mean([one[k] for one in reports])) for k in reports[0]}
        ),
        "precision": precision,
    }


def _trained(
    split: Split,
    chosen: Method,
    strength: float,
    seed: int,
    run: Mapping[str, Any],
    precision: str,
    device: str,
    reward: LogReward | None,
) -> tuple[ProbabilisticActor, dict[str, float]]:
    """The actor after its last step, and what the loss said of itself."""
    torch.manual_seed(seed)  # of the initial policy; batches have a generator of their own
    actor = make_actor(
        precision,
        device,
        num_items=split.data.num_items,
        history=HISTORY,
        context_sizes=(*split.data.context_sizes, *chosen.context),
    )
    buffer: Any = split.data.train_buffer(run["batch_size"], seed, device)
    if chosen.transform is not None:
        buffer.append_transform(chosen.transform(strength, seed))
    if chosen.follows and reward is not None:
        buffer = AnnotatedBuffer(buffer, reward.columns)
    loss = chosen.loss(actor, strength, None if reward is None else reward.model).to(device)
    config = TrainerConfig(**run, log_every=max(1, run["steps"] // 50))
    history = OfflineTrainer(loss, buffer, config).run().training
    return actor, {k: _late(curve, run["steps"]) for k, curve in history.items()}


def _metrics(scores: CatalogueScores, split: Split) -> dict[str, float | str | None]:
    return metrics_json(held_out_metrics(scores, split.held_out, split.data.bounds))


def _without_groups(scores: CatalogueScores, split: Split) -> dict[str, list[float]]:
    """The metrics :data:`BY_USER` without each group of users."""
    rows, bounds = split.held_out, split.data.bounds

    def of(some: torch.Tensor) -> dict[str, float]:
        mine = rows.take(some)
        found = ranking_metrics(
            scores.take(some),
            mine.quality,
            mine.user,
            context=mine.context,
            ks=(K,),
            best=bounds.best,
            worst=bounds.worst,
            good=bounds.good,
        )
        return {name: found[name] for name in BY_USER}

    return without_groups(of, rows.user)


def _means(seeds: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float | str | None]]:
    """Group by group, the mean over seeds, as strict JSON data."""
    names = seeds[0] if seeds else ()
    return {
        name: [number(float(each)) for each in np.mean([seed[name] for seed in seeds], axis=0)]
        for name in names
    }


def _late(curve: list[tuple[int, float]], steps: int) -> float:
    late = curve[late_window([step for step, _ in curve], steps)]
    return float(np.mean([value for _, value in late]))
