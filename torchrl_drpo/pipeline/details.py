"""``drpo evaluate --details``: whom a policy serves, what it shows, and what the logger hid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.evaluation.exposure import HEAD, exposure_metrics
from torchrl_drpo.evaluation.off_policy import Diagnostics, diagnose
from torchrl_drpo.evaluation.off_policy.logs import RowSample, blocks
from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.evaluation.ranking import (
    Bucket,
    CatalogueScores,
    jackknife,
    uniform_log_weights,
    weighted_metrics,
)
from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.numbered import NumberedRows
from torchrl_drpo.pipeline.rows import HeldOut
from torchrl_drpo.pipeline.scores import ROWS_SCORED, held_out_intervals
from torchrl_drpo.report.tables import Table

Intervals = Mapping[str, Interval]
#: Rows whose lists are drawn up for the exposure of items, drawn at random.
LISTS_AT_MOST = 10_000


@dataclass(frozen=True)
class BucketMetrics:
    """Metrics of the rows of one bucket.

    Attributes:
        bucket: which rows.
        quality: mean of them.
        methods: by method and metric, with intervals over users.
    """

    bucket: Bucket
    quality: float
    methods: Mapping[str, Intervals]

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        return {
            "bucket": self.bucket.name,
            "logged": [self.bucket.least, self.bucket.most],
            "rows": int(self.bucket.rows.sum()),
            "quality": self.quality,
            "metrics": report.summary_json(self.methods),
        }


@dataclass(frozen=True)
class Weighted:
    """Metrics as they would be had the logger shown every item alike.

    Attributes:
        methods: by method and metric, with intervals over users.
        diagnostics: what the weights say.
    """

    methods: Mapping[str, Intervals]
    diagnostics: Diagnostics


@dataclass(frozen=True)
class Details:
    """What stands behind the metrics of the main table.

    Attributes:
        by_activity: by how often a row's user was logged in training; empty without users.
        by_popularity: by how often its item was.
        exposure: by method, what its lists do to the catalogue; ``"the log"`` is what was shown.
        weighted: where the log has propensities.
        k: length of the lists.
    """

    by_activity: list[BucketMetrics]
    by_popularity: list[BucketMetrics]
    exposure: Mapping[str, Mapping[str, float]]
    weighted: Weighted | None
    k: int

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data."""
        out: dict[str, Any] = {
            "by_user_activity": [each.to_json() for each in self.by_activity],
            "by_item_popularity": [each.to_json() for each in self.by_popularity],
            "exposure": {name: report.metrics_json(each) for name, each in self.exposure.items()},
        }
        if self.weighted is not None:
            out["weighted_by_propensity"] = {
                "metrics": report.summary_json(self.weighted.methods),
                "weights": self.weighted.diagnostics.to_json(),
            }
        return out

    def tables(self) -> list[Table]:
        """For people: one table each."""
        out = []
        if self.by_activity:
            out.append(self._buckets(self.by_activity, "By how often the user was logged"))
        out.append(self._buckets(self.by_popularity, "By how often the item was logged"))
        out.append(self._exposure())
        if self.weighted is not None:
            out.append(self._weighted(self.weighted))
        return out

    def _buckets(self, found: list[BucketMetrics], title: str) -> Table:
        k = self.k
        policy = list(found[0].methods)[-1]
        header = [
            "bucket",
            "rows",
            "quality",
            f"HR@{k} best ↑",
            f"HR@{k} worst ↓",
            "lift ↑",
            "popularity's HR best",
        ]
        shown = (f"hr@{k}_best", f"hr@{k}_worst", f"lift@{k}")
        body = []
        for each in found:
            of = each.methods[policy]
            body.append(
                [
                    str(each.bucket),
                    f"{int(each.bucket.rows.sum()):,}",
                    f"{each.quality:.3f}",
                    *(str(of[name]) for name in shown),
                    str(each.methods["popularity"][f"hr@{k}_best"]),
                ]
            )
        note = "In brackets: how often it was, in training."
        return Table(f"{title}: {policy}", header, body, note=note)

    def _exposure(self) -> Table:
        heads = {
            "coverage": "coverage",
            "gini": "Gini",
            "novelty": "novelty, bits",
            "popular_share": "popular share",
            "diversity": "diversity",
        }
        body = [
            [name, *(f"{each[key]:.3f}" if key in each else "" for key in heads)]
            for name, each in self.exposure.items()
        ]
        note = (
            f"Lists of {self.k} items, one a row. Coverage: share of the catalogue in any list. "
            "Gini: 0 where all items are shown alike, near 1 where few are. Popular share: of the "
            f"places, what the most logged {HEAD:.0%} of the catalogue takes. Diversity: mean of 1 "
            "- cosine in a list, by the policy's own item vectors."
        )
        return Table("What is shown", ["policy", *heads.values()], body, note=note)

    def _weighted(self, weighted: Weighted) -> Table:
        found = weighted.diagnostics
        reasons = "; ".join(why for _, why in found.reasons())
        note = (
            "Rows weighted by 1 / propensity. The weights are worth "
            f"{found.effective_rows:,.0f} rows: {found.verdict}"
            + (f", since {reasons}." if reasons else ".")
        )
        title = "Had every item been shown alike"
        return report.table(weighted.methods, title, self.k, upright=True, note=note)


def bucket_metrics(
    buckets: list[Bucket],
    scores: Mapping[str, CatalogueScores],
    rows: HeldOut,
    bounds: QualityBounds,
    ks: tuple[int, ...],
) -> list[BucketMetrics]:
    """Metrics of each bucket's rows, by every method."""
    return [
        BucketMetrics(
            bucket,
            rows.quality[bucket.rows].double().mean().item(),
            {
                name: held_out_intervals(
                    score.take(bucket.rows), rows.take(bucket.rows), bounds, ks
                )
                for name, score in scores.items()
            },
        )
        for bucket in buckets
    ]


def weighted_by_propensity(
    scores: Mapping[str, CatalogueScores],
    rows: HeldOut,
    log_propensity: Tensor,
    num_items: int,
    bounds: QualityBounds,
    ks: tuple[int, ...],
) -> Weighted:
    """IPS-weighted metrics of every method.

    Args:
        scores: by method.
        rows: the held-out rows.
        log_propensity: theirs, ``[N]``.
        num_items: of the log's catalogue.
        bounds: of the quality.
        ks: list lengths.
    """
    log_weight = uniform_log_weights(log_propensity.double(), num_items)

    def of(score: CatalogueScores) -> Callable[[Tensor], dict[str, float]]:
        return lambda some: weighted_metrics(
            score.take(some),
            rows.quality[some],
            log_weight[some],
            ks=ks,
            best=bounds.best,
            worst=bounds.worst,
        )

    return Weighted(
        {name: jackknife(of(score), rows.unit) for name, score in scores.items()},
        diagnose(log_weight.exp(), cluster=rows.unit),
    )


@torch.no_grad()
def policy_lists(checkpoint: PolicyCheckpoint, rows: NumberedRows, k: int) -> Tensor:
    """The items that a policy ranks first, at some of the rows, int64 ``[n, k]``."""
    actor, top_k = checkpoint.actor, checkpoint.ranking()
    parts = []
    for block in blocks(RowSample(rows, LISTS_AT_MOST), ROWS_SCORED):
        hidden = actor.get_dist(block.select(*actor.in_keys)).hidden
        parts.append(top_k(hidden, k, None)[1])
    return torch.cat(parts)


def exposures(
    lists: Mapping[str, Tensor], shown: Tensor, logged: Tensor, vectors: Tensor
) -> dict[str, dict[str, float]]:
    """What lists do to the catalogue, beside what the log did.

    Args:
        lists: by method, item numbers ``[N, k]``.
        shown: the held-out rows' items, ``[N]``.
        logged: how often each item was logged in training, ``[V]``.
        vectors: of all items, ``[V, D]``.
    """
    out = {"the log": exposure_metrics(shown.unsqueeze(-1), logged)}
    return out | {name: exposure_metrics(each, logged, vectors) for name, each in lists.items()}
