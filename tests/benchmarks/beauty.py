"""Transformer policies on whole purchase sequences (Amazon Beauty), beside counting.

    python tests/benchmarks/beauty.py --data DATA/amazon_beauty_p5 --out results/beauty
    python tests/benchmarks/beauty.py --data ... --out ... --test

Leave-one-out: a user's last item is for the test, the last but one for validation, all others
train. The whole catalogue is ranked, nothing is left out of it, and items of one score share their
places. The policy is `make_catalogue_actor` with a causal transformer, or with `--policy
semantic-id` one over codes of its own (residual k-means); the product's own trainer trains it by
behaviour cloning on all places of the training rows. Item vectors start as factors of how often two
items stand within five places of each other in *training* rows, what counting knows, and the codes
are made of the same; an item that a search over codes does not find counts as last.
Epochs and settings are chosen on validation; every run leaves its validation in validation.json.
With `--test` the epoch that was best there is scored on the test rows, once, beside counting on the
same training rows, with intervals over users (Student's t of differences user by user).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds
from torch import Tensor
from torchrl.data import SamplerWithoutReplacement

from torchrl_drpo import BehaviorCloningLoss, LogSchema, RecReplayBuffer
from torchrl_drpo.distributions import CodeTrie
from torchrl_drpo.evaluation.ranking import CatalogueScores, hit_rate, ndcg, scores_from_logits
from torchrl_drpo.evaluation.statistics import mean_interval, paired_interval
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.objectives import AllPlaces
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.scores import policy_scores
from torchrl_drpo.pipeline.terminal import say
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.policies import (
    EncoderConfig,
    catalogue_policy,
    make_catalogue_actor,
    make_semantic_id_actor,
    semantic_id_policy,
)
from torchrl_drpo.tokenization import residual_kmeans

#: Places within which two items count as neighbours, and how much less each place further.
NEAR, FADING = 5, 0.8
#: Counting: weight of a neighbour that came before, and latest items of a history that are read.
BACKWARD, LATEST = 0.3, 10
K, ROWS = 10, 1_000
#: Items of a list that a search over codes finds.
LISTED = 20


@dataclass(frozen=True)
class Settings:
    """What may be chosen on validation; see the options' help."""

    policy: str = "catalogue"
    head: str = "gru"
    levels: int = 3
    codes: int = 256
    dim: int = 128
    layers: int = 1
    heads: int = 2
    expansion: int = 2
    dropout: float = 0.5
    history: int = 50
    sequences: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    counted_start: int = 1
    seed: int = 0


def open_log(file: Path, history: int) -> RecReplayBuffer:
    """The sequences as a log: a row an item, its place as its time, and which part it is of."""
    frame = pd.read_parquet(file)
    lengths = frame["item_ids"].map(len).to_numpy()
    place = np.concatenate([np.arange(length) for length in lengths])
    left = np.repeat(lengths, lengths) - place
    rows = pd.DataFrame(
        {
            "user": np.repeat(frame["user_id"].to_numpy(), lengths),
            "item": np.concatenate(frame["item_ids"].to_numpy()),
            "place": place,
            "part": np.where(left == 1, "test", np.where(left == 2, "valid", "train")),
            "bought": 1.0,
        }
    )
    schema = LogSchema(user="user", item="item", time="place", quality="bought", split="part")
    return RecReplayBuffer.from_pandas(rows, schema, history=history)


def neighbours(train: RecReplayBuffer, back: float) -> csr_array:
    """How often item j follows item i within five places, over the distance, ``[V, V]``."""
    user, item = train.column("user").numpy(), train.column("action").numpy()
    counts = csr_array((train.num_items, train.num_items))
    for apart in range(1, NEAR + 1):
        same = user[apart:] == user[:-apart]
        pair = item[:-apart][same], item[apart:][same]
        weight = np.full(int(same.sum()), 1 / apart)
        each = csr_array((weight, pair), shape=counts.shape)
        counts = counts + each + back * each.T
    return csr_array(counts)


def counted_vectors(train: RecReplayBuffer, dim: int) -> Tensor:
    """Factors of the logarithm of neighbour counts, items that many know made less of."""
    counts = neighbours(train, back=1.0)
    total = np.asarray(counts.sum(axis=1)).ravel()
    fewer = diags_array((total + 1) ** -0.25)
    table = fewer @ counts.log1p() @ fewer
    start = np.random.default_rng(0).standard_normal(len(total))
    left, singular, right = svds(csr_array(table), k=dim, v0=start)
    positive = (left * right.T).sum(0) > 0  # similarity, not its opposite
    vectors = torch.from_numpy(left * np.sqrt(singular) * positive).float()
    return vectors / vectors.norm(dim=1).mean()


def counting_scores(train: RecReplayBuffer, held_out: RecReplayBuffer) -> CatalogueScores:
    """Neighbour counts of the latest items, the latest most, over the root of an item's count."""
    count = np.bincount(train.column("action").numpy(), minlength=train.num_items) + 1
    table = csr_array(neighbours(train, BACKWARD) @ diags_array(count**-0.5))
    parts = []
    for block in held_out.batches(ROWS):
        history = block["observation", "history"][:, -LATEST:].numpy()
        row, place = np.nonzero(history >= 0)
        weight = FADING ** (history.shape[1] - 1 - place)
        shape = (len(history), train.num_items)
        asked = csr_array((weight, (row, history[row, place])), shape=shape)
        found = torch.from_numpy((asked @ table).toarray())
        parts.append(scores_from_logits(found, block["action"]))
    return CatalogueScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def make_actor(settings: Settings, train: RecReplayBuffer) -> Any:
    """The policy, untrained."""
    torch.manual_seed(settings.seed)
    encoder = EncoderConfig(
        "transformer",
        layers=settings.layers,
        heads=settings.heads,
        expansion=settings.expansion,
        dropout=settings.dropout,
    )
    shape = {"dim": settings.dim, "history": settings.history, "encoder": encoder}
    counted = counted_vectors(train, settings.dim)
    if settings.policy == "semantic-id":
        codes = semantic_ids(counted, settings)
        actor = make_semantic_id_actor(codes, head=settings.head, **shape)
        items = semantic_id_policy(actor).item_vectors
    else:
        actor = make_catalogue_actor(train.num_items, **shape)
        items = catalogue_policy(actor).items
    if settings.counted_start:
        with torch.no_grad():  # items without neighbours keep a little of their own
            items.mul_(0.1).add_(counted)
    return actor


def semantic_ids(vectors: Tensor, settings: Settings) -> Tensor:
    """Codes of vectors at unit length; those without neighbours get random ones."""
    known = vectors.norm(dim=1) > 0
    unit = torch.nn.functional.normalize(vectors, dim=1)
    found = residual_kmeans(unit[known], levels=settings.levels, codes=settings.codes)
    generator = torch.Generator().manual_seed(settings.seed)
    codes = torch.randint(settings.codes, (len(vectors), settings.levels), generator=generator)
    codes[known] = found.codes
    say(json.dumps({"items that share their codes": CodeTrie(codes).collisions}))
    return codes


class _Enough(Exception):  # noqa: N818 (no error)
    """Validation has not become better for a while, or the time is over."""


def train(
    actor: Any,
    settings: Settings,
    log: RecReplayBuffer,
    epochs: int,
    patience: int,
    minutes: float,
) -> list[dict[str, float]]:
    """Trains until validation stops improving; the actor is left as it was best."""
    sequences = log.split("train").sequences(
        batch_size=settings.sequences,
        sampler=SamplerWithoutReplacement(drop_last=True),
        generator=torch.Generator().manual_seed(settings.seed),
    )
    valid = log.split("valid")
    every = len(sequences) // settings.sequences
    curve: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    last = time.monotonic() + 60 * minutes

    def evaluate(step: int) -> dict[str, float]:
        nonlocal best
        scores = policy_scores(actor, valid.batches(ROWS), longest=LISTED)
        found = measured(scores) | {"epoch": step / every, "cpu": time.process_time()}
        curve.append(found)
        say(json.dumps(found))
        top = max(range(len(curve)), key=lambda epoch: curve[epoch]["ndcg"])
        if top == len(curve) - 1:
            best = copy.deepcopy(actor.state_dict())
        if len(curve) - 1 - top >= patience or time.monotonic() > last:
            raise _Enough
        return found

    config = TrainerConfig(
        steps=epochs * every,
        batch_size=settings.sequences,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        log_every=every,
        evaluate_every=every,
    )
    loss = AllPlaces(BehaviorCloningLoss, actor)
    with contextlib.suppress(_Enough):
        OfflineTrainer(loss, sequences, config, evaluate=evaluate).run()
    actor.load_state_dict(best)
    return curve


def measured(scores: CatalogueScores) -> dict[str, float]:
    """Recall and NDCG of one relevant item a user."""
    return {"recall": hit_rate(scores, K).mean().item(), "ndcg": ndcg(scores, K).mean().item()}


def compared(policy: CatalogueScores, counting: CatalogueScores) -> dict[str, Any]:
    """Both on the test rows, and what the policy is above counting, user by user."""
    out: dict[str, Any] = {}
    for name, metric in (("recall", hit_rate), ("ndcg", ndcg)):
        ours, theirs = metric(policy, K).tolist(), metric(counting, K).tolist()
        out[name] = {
            "policy": mean_interval(ours)._asdict(),
            "counting": mean_interval(theirs)._asdict(),
            "above": paired_interval(ours, theirs)._asdict(),
        }
    return out


def table(settings: Settings, test: dict[str, Any], epoch: float, minutes: float) -> str:
    """The test's numbers for people."""
    rows = [
        f"| {name}@{K} | "
        + " | ".join(
            f"{test[name][who]['mean']:.4f} ± {test[name][who]['half_width']:.4f}"
            for who in ("policy", "counting", "above")
        )
        + " |"
        for name in ("recall", "ndcg")
    ]
    users = test["recall"]["policy"]["count"]
    return "\n".join(
        [
            f"Amazon Beauty, leave-one-out, {users:,} users, whole catalogue; 95% intervals over "
            f"users. The policy ({settings.policy}) has a causal transformer, "
            f"{minutes:.0f} minutes of processor time, "
            f"epoch {epoch:.0f} (the best on validation); counting and its item vectors' start are "
            "of the same training rows.",
            "",
            "| | policy | counting | policy above counting |",
            "|:--|--:|--:|--:|",
            *rows,
            "",
            f"`{settings}`",
            "",
        ]
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the Parquet file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--patience", type=int, default=3, help="epochs without a better one")
    parser.add_argument("--minutes", type=float, default=60, help="of training, by the clock")
    parser.add_argument("--test", action="store_true", help="score the test rows at the end")
    usual = Settings()
    for name, value in vars(usual).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    settings = Settings(**{name: options[name] for name in vars(usual)})
    torch.set_num_threads(1)
    log = open_log(options["data"] / "Beauty_P5.sequences.parquet", settings.history)
    rows = log.split("train")
    actor = make_actor(settings, rows)
    begun = measured(policy_scores(actor, log.split("valid").batches(ROWS), longest=LISTED))
    counting = measured(counting_scores(rows, log.split("valid")))
    say(json.dumps({"counting": counting, "untrained": begun}))
    curve = train(actor, settings, log, options["epochs"], options["patience"], options["minutes"])
    best = max(curve, key=lambda found: found["ndcg"])
    minutes = time.process_time() / 60
    out = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    file = out / "validation.json"
    known = json.loads(file.read_text()) if file.exists() else []
    run = {"settings": vars(settings), "curve": curve, "cpu_minutes": minutes}
    write_json(file, [*known, run | {"untrained": begun, "counting": counting}])
    if not options["test"]:
        return
    held_out = log.split("test")
    policy = policy_scores(actor, held_out.batches(ROWS), longest=LISTED)
    test = compared(policy, counting_scores(rows, held_out))
    write_json(out / "test.json", run | {"best": best, "test": test, "torch": torch.__version__})
    write_text(out / "test.md", table(settings, test, best["epoch"], minutes))
    say((out / "test.md").read_text())


if __name__ == "__main__":
    main()
