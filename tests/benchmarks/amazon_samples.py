"""Every kind of policy on two Amazon samples with published semantic IDs, beside counting.

    python tests/benchmarks/amazon_samples.py --data DATA/amazon_semantic_ids \\
        --out results/semantic_ids

The samples (the data of MiniOneRec, arXiv 2510.24431) hold a fifth of its training rows, so the
published figures that are printed beside are of five times the data and no comparison; counting is,
on the same rows. Next items without rewards: all policies are behaviour cloning. Steps are chosen
on the validation rows (NDCG@10), the test rows are scored once, with intervals over rows. Whatever
policies OUT/amazon_samples.json has already are kept: a killed command goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.evaluation.ranking import CatalogueScores, hit_rate, ndcg
from torchrl_drpo.evaluation.ranking.counting import cooccurrences, history_scores
from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.files import read_json, write_json, write_text
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import KindOptions, ModelConfig, SemanticIDOptions
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.scores import policy_scores, popularity_scores
from torchrl_drpo.pipeline.terminal import say
from torchrl_drpo.pipeline.train import run_train

CATEGORIES = {"Industrial": "Industrial_and_Scientific", "Office": "Office_Products"}
K, STEPS = 10, (100, 250, 600, 1_500)
#: Published HR@10 and NDCG@10 on the whole training split (arXiv 2510.24431).
PUBLISHED = {
    "Industrial": {"SASRec": (0.1088, 0.0806), "TIGER": (0.1321, 0.0908), "HSTU": (0.1163, 0.0958)},
    "Office": {"SASRec": (0.1120, 0.0858), "TIGER": (0.1408, 0.1002), "HSTU": (0.1400, 0.1126)},
}
_POOLED = ModelConfig(dim=64, hidden=(128,), dropout=0.2)
_ATTENDING = ModelConfig(dim=64, encoder="transformer", layers=1, heads=2, dropout=0.3)


@dataclass(frozen=True)
class Policy:
    """One row of the table."""

    kind: str
    model: ModelConfig
    head: str = "gru"

    def config(self, folder: Path, steps: int, part: str) -> TrainConfig:
        options = SemanticIDOptions(head=self.head)
        return TrainConfig(
            logs=str(folder / f"{part}.parquet"),
            schema=folder / "schema.json",
            output=folder / f"{part}-{self.kind}-{self.head}-{self.model.encoder}-{steps}",
            policy=self.kind,
            objectives=("bc",),
            history=10,
            steps=steps,
            batch_size=512,
            learning_rate=2e-3,
            ks=(K,),
            model=self.model,
            kinds=KindOptions(semantic_id=options),
        )


POLICIES = {
    "catalogue, pooling": Policy("catalogue", _POOLED),
    "catalogue, transformer": Policy("catalogue", _ATTENDING),
    "embedding (vectors found in the log)": Policy("embedding", ModelConfig(dim=64, hidden=(128,))),
    "semantic-id, GRU head": Policy("semantic-id", _POOLED),
    "semantic-id, transformer, transformer head": Policy("semantic-id", _ATTENDING, "transformer"),
    "semantic-id, parallel head": Policy("semantic-id", _POOLED, "parallel"),
}


def write_logs(data: Path, category: str, folder: Path) -> None:
    """One log whose held-out rows are the validation's, and one whose are the test's."""
    name = CATEGORIES[category]
    columns = ["user_id", "history_item_id", "item_id"]
    types = pa.schema(
        [("user_id", pa.string()), ("history_item_id", pa.list_(pa.int64())), ("item_id", "int64")]
    )
    train = pq.read_table(data / f"{name}.train_recovered.parquet").select(columns).cast(types)
    later = pq.read_table(data / f"{name}.valid_test.parquet")
    for part in ("valid", "test"):
        chosen = later.filter(pa.compute.equal(later["split"], part)).select(columns).cast(types)
        split = ["train"] * len(train) + ["test"] * len(chosen)
        table = pa.concat_tables([train, chosen]).append_column("part", pa.array(split))
        pq.write_table(table, folder / f"{part}.parquet")
    codes = tuple(f"code_{level}" for level in range(3))
    items = ItemTable(str(data.absolute() / f"{name}.items.parquet"), id="item_id", codes=codes)
    schema = LogSchema(
        user="user_id",
        item="item_id",
        quality="1",
        history="history_item_id",
        split="part",
        duplicates="keep",
        items=items,
    )
    (folder / "schema.json").write_text(schema.to_json())


def scores_of(config: TrainConfig) -> CatalogueScores:
    """Of the policy that a configuration trains, on its log's held-out rows."""
    run_train(config)
    checkpoint = PolicyCheckpoint.load(config.output / "bc")
    data = SplitLog.open(config, config.output / "log")
    return policy_scores(checkpoint.actor, data.test_batches(1_000), longest=50)


def baselines(config: TrainConfig) -> dict[str, CatalogueScores]:
    """Popularity and co-occurrence, counted in the training rows."""
    data = SplitLog.open(config, config.output / "log")
    target = data.held_out.action
    popularity = torch.bincount(data.train_items(), minlength=data.num_items)

    def rows(batches: Any) -> Any:
        return ((block["observation", "history"], block["action"]) for block in batches)

    pairs = cooccurrences(rows(data.train_batches(1_000)), data.num_items)
    counted = history_scores(pairs, popularity, rows(data.test_batches(1_000)))
    found = popularity_scores(data.train_items(), data.num_items, target)
    return {"popularity": found, "co-occurrence": counted}


def measured(name: str, scores: CatalogueScores, counted: CatalogueScores) -> dict[str, Any]:
    """HR@10 and NDCG@10 with intervals, and how far above counting."""
    out: dict[str, Any] = {"policy": name}
    for metric, rule in (("HR@10", hit_rate), ("NDCG@10", ndcg)):
        ours, theirs = rule(scores, K).tolist(), rule(counted, K).tolist()
        out[metric] = mean_interval(ours)._asdict()
        if name != "co-occurrence":
            out[f"{metric}, above counting"] = paired_interval(ours, theirs)._asdict()
    return out


def run_category(
    data: Path, category: str, known: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row of the table for each policy, but for those that are known."""
    done = {row["policy"] for row in known}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_logs(data, category, folder)
        any_policy = next(iter(POLICIES.values()))
        without = baselines(any_policy.config(folder, 1, "test"))
        counted = without["co-occurrence"]
        for name, scores in without.items():
            if name not in done:
                yield measured(name, scores, counted)
        for name, policy in POLICIES.items():
            if name in done:
                continue
            start = time.process_time()
            chosen = max(
                STEPS,
                key=lambda steps, policy=policy: (
                    ndcg(scores_of(policy.config(folder, steps, "valid")), K).mean().item()
                ),
            )
            scores = scores_of(policy.config(folder, chosen, "test"))
            found = measured(name, scores, counted)
            minutes = (time.process_time() - start) / 60
            say(f"{category}, {name}: {found['HR@10']['mean']:.4f} at {chosen} steps")
            yield found | {"steps": chosen, "cpu_minutes": minutes}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| policy | HR@10 | NDCG@10 | HR@10 above counting | steps |", "|:--|--:|--:|--:|--:|"]
    for row in rows:
        above = row.get("HR@10, above counting")
        cells = [f"{row[name]['mean']:.4f} ± {row[name]['half_width']:.4f}" for name in _METRICS]
        apart = "" if above is None else f"{above['mean']:+.4f} ± {above['half_width']:.4f}"
        lines.append(
            f"| {row['policy']} | {' | '.join(cells)} | {apart} | {row.get('steps', '')} |"
        )
    return "\n".join(lines)


_METRICS = ("HR@10", "NDCG@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "amazon_samples.json"
    found: dict[str, list[dict[str, Any]]] = read_json(path) if path.exists() else {}
    for category in CATEGORIES:
        rows = found.setdefault(category, [])
        for row in run_category(options.data, category, tuple(rows)):
            rows.append(row)
            write_json(path, found)
    text = "# Two Amazon samples: next items, item level, whole catalogue\n\n"
    text += "Made by `tests/benchmarks/amazon_samples.py`; 95% intervals over rows, one seed.\n"
    for category, rows in found.items():
        text += f"\n## {category}\n\n{table(rows)}\n\nPublished on five times the training rows: "
        text += "; ".join(
            f"{name} {hr:.4f} / {gain:.4f}" for name, (hr, gain) in PUBLISHED[category].items()
        )
        text += ".\n"
    write_text(options.out / "amazon_samples.md", text)


if __name__ == "__main__":
    main()
