"""What a run's page shows and no table of ``drpo train`` holds, measured while the log is open.

A few numbers each: hit rates of every context, the calibration of the reward model, the mean
quality of both parts, and which rows were held out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.evaluation.contexts import context_groups
from torchrl_drpo.evaluation.ranking import CatalogueScores, hit_rate, jackknife
from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.table import metrics_from_json, metrics_json, number

#: Best rows below which a context is not shown: of 30 a hit rate of .25 is known to within .16.
BEST_ROWS_SHOWN = 30
#: Contexts that are shown at most, those with the most best rows.
CONTEXTS_SHOWN = 12
#: Bins of the calibration, each of about as many rows.
BINS = 10
_ROWS_AT_A_TIME = 1 << 16
#: The year 10000 in seconds, where dates of four digits end.
_LAST_SECOND = 253_402_300_800

#: Hit rates of one policy by ``best 0``, ``worst 0``, ``best 1``, ...: rows of the contexts.
Rates = dict[str, float]


class Contexts(NamedTuple):
    """The contexts that are shown.

    Attributes:
        names: such as ``tab=1``, in the order of their best rows, the most first.
        rows: numbers of rows, best rows and worst rows of each.
        place: of every held-out row its context's place among them, -1 for the others', ``[N]``.
        left_out: how many there are beside them.
    """

    names: list[str]
    rows: list[dict[str, int]]
    place: Tensor
    left_out: int


def contexts_of(data: SplitLog) -> Contexts | None:
    """The largest contexts of the held-out rows; ``None`` where none is large enough."""
    held = data.held_out
    if held.context is None or data.is_constant:
        return None
    group = context_groups(held.context, len(held.quality))
    best, worst = held.quality >= data.bounds.best, held.quality <= data.bounds.worst
    count = int(group.max()) + 1
    every = torch.ones_like(best)
    sizes = [torch.bincount(group[some], minlength=count) for some in (every, best, worst)]
    order = sizes[1].argsort(descending=True, stable=True)
    shown = order[sizes[1][order] >= BEST_ROWS_SHOWN][:CONTEXTS_SHOWN]
    if not len(shown):
        return None
    place = torch.full((count,), -1).index_put_((shown,), torch.arange(len(shown)))[group]
    first = [int((place == each).nonzero()[0]) for each in range(len(shown))]
    kinds = ("rows", "best_rows", "worst_rows")
    return Contexts(
        [_name(data, held.context[row]) for row in first],
        [
            {kind: int(size[each]) for kind, size in zip(kinds, sizes, strict=True)}
            for each in shown
        ],
        place,
        count - len(shown),
    )


def context_rates(
    scores: CatalogueScores, data: SplitLog, config: TrainConfig
) -> dict[str, Any] | None:
    """Hit rates of a policy on the best and on the worst rows of every context, as JSON data.

    With ``half_widths`` of 95% intervals over users where one seed is all there is; ``None`` where
    there are no contexts to show.
    """
    contexts = contexts_of(data)
    if contexts is None:
        return None
    held = data.held_out
    hit = hit_rate(scores, config.ks[-1])
    kinds = {"best": held.quality >= data.bounds.best, "worst": held.quality <= data.bounds.worst}

    def rates(some: Tensor) -> Rates:
        found = {}
        for kind, rows in kinds.items():
            of = some & rows & (contexts.place >= 0)
            place, size = contexts.place[of], len(contexts.names)
            mean = torch.bincount(place, hit[of], size) / torch.bincount(place, minlength=size)
            found |= {f"{kind} {number}": value for number, value in enumerate(mean.tolist())}
        return found

    if config.seeds > 1:
        return {"rates": metrics_json(rates(torch.ones_like(held.quality, dtype=torch.bool)))}
    found = jackknife(rates, held.unit)
    return {
        "rates": metrics_json({name: each.mean for name, each in found.items()}),
        "half_widths": metrics_json({name: each.half_width for name, each in found.items()}),
    }


def measured(
    data: SplitLog,
    config: TrainConfig,
    reward: LogReward | None,
    contexts: Mapping[str, Sequence[dict[str, Any] | None]],
) -> dict[str, Any]:
    """What ``results.json`` holds beside the table's numbers, as strict JSON data.

    Args:
        data: the log.
        config: the settings.
        reward: the reward model, where there is one.
        contexts: by method, what :func:`context_rates` says of every seed.
    """
    train, test = data.log.split("train").quality, data.held_out.quality
    given = {name: getattr(config, name) for name in ("logs", "dataset", "root")}
    found = {
        "log": {name: None if value is None else str(value) for name, value in given.items()},
        "mean_quality": {"train": _mean(train), "test": _mean(test)},
        "held_out_rows": held_out_fingerprint(data),
    }
    if data.log.schema.time is not None:
        ends = [end.item() / data.log.ticks_per_second for end in data.log.column("time").aminmax()]
        # Steps that are merely counted (a simulator's) may be no dates.
        if all(0 <= end < _LAST_SECOND for end in ends):
            found["days"] = [str(datetime.fromtimestamp(end, timezone.utc).date()) for end in ends]
    if reward is not None:
        group = data.log.split("train").column("user") if data.held_out.has_users else None
        predicted = reward.columns["predicted_reward"].cpu()
        found["reward_calibration"] = calibration(predicted, train, group)
    shown = contexts_of(data)
    if shown is not None:
        found["contexts"] = {
            "k": config.ks[-1],
            "columns": list(data.log.contexts),
            "groups": [
                {"name": name, **rows} for name, rows in zip(shown.names, shown.rows, strict=True)
            ],
            "left_out": shown.left_out,
            "summary": _summary(contexts, len(shown.names)),
        }
    return found


def held_out_fingerprint(data: SplitLog) -> str:
    """SHA-256 of the held-out rows: whose they are, which item, what they are worth, where."""
    held, sha = data.held_out, hashlib.sha256()
    columns = [held.action, held.quality] + ([held.user] if held.has_users else [])
    columns += [] if held.context is None else [held.context]
    for column in columns:
        sha.update(column.contiguous().numpy().tobytes())
    # Numbers stand for ids; logs with other ids are other logs.
    for start in range(0, data.num_items, _ROWS_AT_A_TIME):
        block = range(start, min(start + _ROWS_AT_A_TIME, data.num_items))
        sha.update(repr(data.items.decode(block)).encode())
    return sha.hexdigest()


def calibration(
    predicted: Tensor, reward: Tensor, group: Tensor | None = None, bins: int = BINS
) -> list[dict[str, Any]]:
    r"""Observed against predicted rewards, by bins of the prediction with about as many rows.

    Args:
        predicted: by a model that has not seen the row, ``[N]``.
        reward: what was observed, ``[N]``.
        group: whose row it is, integer ``[N]``; rows of a group resemble each other, and the
            interval is over groups. By default over rows.
        bins: at most so many; predictions that are alike lie in one.

    Returns:
        Of every bin ``rows``, the means ``predicted`` and ``observed``, and the ``half_width`` of
        the latter's 95% interval (normal; residuals summed by group), ``None`` for a single group.

    Example:
        >>> found = calibration(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1, 1]))
        >>> [(each["rows"], each["predicted"], each["observed"]) for each in found]
        [(2, 0.0, 0.5), (2, 1.0, 1.0)]
    """
    predicted, reward = predicted.double().reshape(-1), reward.double().reshape(-1)
    ordered = predicted.sort().values
    places = (torch.arange(1, bins) * len(ordered)) // bins
    edges = ordered[places].unique()
    place = torch.bucketize(predicted, edges, right=True)
    group = torch.arange(len(reward)) if group is None else group
    found = []
    for each in range(len(edges) + 1):
        rows = place == each
        count = int(rows.sum())
        if not count:
            continue
        observed = reward[rows].mean()
        owner = torch.unique(group[rows], return_inverse=True)[1]
        off = torch.bincount(owner, reward[rows] - observed)
        groups = len(off)
        error = (off.square().sum() * groups / (groups - 1)).sqrt() / count if groups > 1 else None
        found.append(
            {
                "rows": count,
                "predicted": predicted[rows].mean().item(),
                "observed": observed.item(),
                "half_width": None if error is None else 1.96 * error.item(),
            }
        )
    return found


def _summary(
    contexts: Mapping[str, Sequence[dict[str, Any] | None]], count: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By method and kind of rows, the rates of every context over seeds with their intervals."""
    found = {}
    for method, seeds in contexts.items():
        known = [seed for seed in seeds if seed is not None]
        if len(known) < len(seeds) or not known:  # finished before there were these numbers
            continue
        rates = [metrics_from_json(seed["rates"]) for seed in known]
        widths = metrics_from_json(known[0].get("half_widths", {})) if len(known) == 1 else {}

        def interval(name: str, rates: Sequence[Rates] = rates, widths: Rates = widths) -> Interval:
            value = mean_interval([seed.get(name, math.nan) for seed in rates])
            return value._replace(half_width=widths[name]) if name in widths else value

        found[method] = {
            kind: [
                {"mean": number(value.mean), "half_width": number(value.half_width)}
                for value in (interval(f"{kind} {place}") for place in range(count))
            ]
            for kind in ("best", "worst")
        }
    return found


def _name(data: SplitLog, values: Tensor) -> str:
    """The raw values of a row's context columns, in words."""
    parts = []
    for (column, catalogue), value in zip(data.log.contexts.items(), values.tolist(), strict=True):
        raw = catalogue.decode([value])[0] if value >= 0 else "unknown"
        parts.append(f"{column}={raw}")
    return ", ".join(parts)


def _mean(quality: Tensor) -> float:
    return quality.double().mean().item()
