from __future__ import annotations

import subprocess
import sys
import warnings

import pandas as pd
import pytest
import torch
from torchrl.data import OfflineToOnlineReplayBuffer
from torchrl.data.datasets import load_dataset

from torchrl_drpo.data import RecReplayBuffer, load_log
from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.objectives import DRPOLoss
from torchrl_drpo.policies import make_catalogue_actor, make_gaussian_actor

BANDIT_ITEMS = {"all": 80, "men": 34, "women": 46}
#: The published click rates times 10,000 rows.
BANDIT_CLICKS = {
    ("random", "all"): 38, ("random", "men"): 46, ("random", "women"): 46,
    ("bts", "all"): 42, ("bts", "men"): 69, ("bts", "women"): 46,
}  # fmt: skip


def steps(log: RecReplayBuffer, length: int, weighting: str = "linear") -> None:
    """One DRPO step from a sample: a finite loss, a gradient that moves the items."""
    actor = make_catalogue_actor(
        log.num_items, dim=8, context_sizes=log.context_sizes, history=length
    )
    loss = DRPOLoss(actor, weighting=weighting)
    out = loss(log.sample(256))
    out["loss_actor"].backward()
    gradients = [p.grad for p in loss.parameters() if p.grad is not None]
    assert torch.isfinite(out["loss_actor"])
    assert any(g.abs().sum() > 0 for g in gradients)


def test_kuairand_by_name(real_logs):
    log = load_dataset("rec:kuairand-pure", root=real_logs / "kuairand_pure_part", test_days=3)
    assert (log.report.rows_read, log.report.duplicates) == (228_329, 5_460)
    steps(log.split("train"), 20)


@pytest.mark.parametrize("campaign", BANDIT_ITEMS)
@pytest.mark.parametrize("policy", ["random", "bts"])
def test_open_bandit_by_name(real_logs, campaign, policy):
    log = load_dataset(
        "rec:open-bandit", root=real_logs / "open_bandit_small", campaign=campaign,
        behavior_policy=policy,
    )  # fmt: skip
    assert (len(log), log.num_items) == (10_000, BANDIT_ITEMS[campaign])
    rows = log[:]
    assert rows["next", "reward"].sum() == BANDIT_CLICKS[policy, campaign]
    if policy == "random":
        torch.testing.assert_close(
            rows["propensity"], torch.full((10_000,), 1 / BANDIT_ITEMS[campaign])
        )
    assert sorted(set(rows["position"].tolist())) == [1, 2, 3]
    assert len(log.context_sizes) == 4
    assert rows["next", "terminated"].all()


def test_a_bandit_log_feeds_a_step(real_logs):
    steps(load_log("open-bandit", real_logs / "open_bandit_small", history=1), 1)


def test_movielens_by_name(real_logs):
    log = load_dataset("rec:movielens", root=real_logs / "movielens_latest_small", history=10)
    report = log.report
    assert (report.rows, report.users) == (100_004, 671)
    assert (report.items, report.items_logged) == (9_125, 9_066)
    ratings = pd.read_csv(real_logs / "movielens_latest_small" / "ratings.csv")
    one = ratings[ratings["userId"] == 15]["rating"]
    rows = log[:]
    mine = rows[rows["user"] == log.users.encode([15])]
    best = mine["next", "reward"].max().item()
    assert best == pytest.approx(1 - (one == one.max()).mean() / 2, abs=1e-6)
    steps(log, 10)


@pytest.mark.parametrize(
    ("category", "rows", "items", "colliding"),
    [("Industrial_and_Scientific", 9_065, 3_686, 31), ("Office_Products", 9_732, 3_459, 30)],
)
def test_amazon_sid_by_name(real_logs, category, rows, items, colliding):
    root = real_logs / "amazon_semantic_ids"
    log = load_dataset("rec:amazon-sid", root=root, category=category, history=10)
    assert (len(log), log.num_items, log.report.unknown_items) == (rows, items, 0)
    assert log.report.parts == {"test": rows - rows // 2, "valid": rows // 2}
    codes, counts = log.item_codes.unique(dim=0, return_counts=True)
    assert (codes.min() >= 0, codes.shape[1]) == (True, 3)
    # "31 items share a code triple": all but one of each group of twins
    assert (counts - 1).sum() == colliding or counts[counts > 1].sum() == colliding
    frame = pd.read_parquet(root / f"{category}.valid_test.parquet")
    for row in range(0, rows, 1_009):
        history = log[row]["observation", "history"]
        kept = history[history >= 0].tolist()
        assert log.items.decode(kept) == frame["history_item_id"][row].tolist()
    steps(log, 10, "uniform")  # every row is equally good: linear weights would all be zero


@pytest.mark.parametrize("scenario", ["medium", "extreme"])
def test_simulated_logs_are_made_on_the_spot(scenario):
    options = {"rows": 300, "seed": 3, "columns": ("item", "propensity")}
    log = load_dataset(f"rec:recsim-{scenario}", batch_size=64, **options)
    again = load_log(f"recsim-{scenario}", **options)
    assert (log[:] == again[:]).all()
    assert log[:]["propensity"].gt(0).all()
    with pytest.raises(ValueError, match=r"has no columns \['items'\]"):
        load_log(f"recsim-{scenario}", columns=("items",))
    loss = DRPOLoss(make_gaussian_actor(10, log[:]["action"].shape[1]))
    assert torch.isfinite(loss(log.sample())["loss_actor"])


def test_named_logs_start_offline_to_online_training(real_logs):
    mixed = OfflineToOnlineReplayBuffer(
        "rec:movielens", root=real_logs / "movielens_latest_small", history=5, batch_size=32,
        online_capacity=100, offline_fraction=0.75,
    )  # fmt: skip
    assert mixed.sample().batch_size == (32,)
    online = mixed.offline_buffer[:50]  # rows in the same layout, as a collector would bring them
    mixed.extend(online)
    sample = mixed.sample(40)
    assert sample["observation", "history"].shape == (40, 5)
    assert len(mixed) == 100_004 + 50


def test_a_published_log_shows_the_columns_that_online_rows_have(real_logs):
    mixed = OfflineToOnlineReplayBuffer(
        "rec:movielens", root=real_logs / "movielens_latest_small", history=5, batch_size=32,
        online_capacity=100, columns=("user",),
    )  # fmt: skip
    whole = mixed.offline_buffer[:50]
    online = whole.select("observation", "action", "next", "user")
    assert set(whole.keys()) > set(online.keys())
    mixed.extend(online)
    assert set(mixed.sample().keys(True)) == set(online.keys(True))


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_simulated_log_is_joined_by_a_collectors_rows(by_hand):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchrl's own, on import and when a collector is made
        from torchrl.collectors import Collector
        from torchrl.trainers.algorithms.offline_to_online import OfflineToOnlineReplayBufferHook

        env, actor = RecSimEnv("table", batch_size=[4]), make_gaussian_actor(10, 128)
        collector = Collector(env, actor, frames_per_batch=40, total_frames=40)
    (rows,) = list(collector)
    collector.shutdown()
    mixed = OfflineToOnlineReplayBuffer(
        "rec:recsim-extreme", rows=100, batch_size=32, online_capacity=100
    )
    assert {"loc", "collector"} <= set(rows.keys())
    if by_hand:
        mixed.extend(rows.reshape(-1).select("observation", "action", "next"))
    else:
        OfflineToOnlineReplayBufferHook(mixed).extend(rows)
    sample = mixed.sample()
    assert sample.batch_size == (32,)
    logged, seen = mixed.offline_buffer[:]["action"], rows["action"].reshape(-1, 128)
    offline, online = (
        (sample["action"].unsqueeze(1) == rows).all(-1).any(1).sum() for rows in (logged, seen)
    )
    assert (offline, online) == (16, 16)
    assert torch.isfinite(DRPOLoss(actor)(sample)["loss_actor"])


def test_whoever_imports_a_loss_can_name_a_log():
    code = (
        "from torchrl_drpo import DRPOLoss; from torchrl.data.datasets import load_dataset; "
        "print(len(load_dataset('rec:recsim-medium', rows=50, batch_size=8)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[-1:] == ["50"], done.stderr


def test_published_csv_files_read_like_their_parquet(real_logs, tmp_path):
    source = pd.read_parquet(real_logs / "open_bandit_small" / "bts_men.parquet").iloc[:200]
    (tmp_path / "bts" / "men").mkdir(parents=True)
    source.to_csv(tmp_path / "bts" / "men" / "men.csv")  # an unnamed index column, as published
    options = {"campaign": "men", "behavior_policy": "bts"}
    log = load_log("open-bandit", tmp_path, **options)
    whole = load_log("open-bandit", real_logs / "open_bandit_small", **options)
    assert log[:]["time"].tolist() == whole[:200]["time"].tolist()
    torch.testing.assert_close(log[:]["propensity"], whole[:200]["propensity"])
    frame = pd.read_parquet(
        real_logs / "kuairand_pure_part" / "log_standard_20220425_20220508.parquet"
    ).iloc[:300]
    frame.to_csv(tmp_path / "log_standard_4_22_to_5_08_pure.csv", index=False)
    kuairand = load_log("kuairand-pure", tmp_path, converted=tmp_path / "converted")
    assert kuairand.report.rows_read == 300
    assert load_log("kuairand-pure", tmp_path, converted=tmp_path / "converted").report.rows > 0


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="no log 'netflix'; there are amazon-sid"):
        load_dataset("rec:netflix", root=tmp_path)
    with pytest.raises(ValueError, match=r"no log 'movielense' \(did you mean 'movielens'\?\)"):
        load_log("movielense", tmp_path)
    with pytest.raises(
        ValueError, match="rec:movielens has no choice of 'campaign'; it takes none"
    ):
        load_log("movielens", tmp_path, campaign="men")
    with pytest.raises(ValueError, match=r"has no choice of 'campaign'; it takes \['category'\]"):
        load_log("amazon-sid", tmp_path, campaign="men")
    with pytest.raises(ValueError, match="rec:movielens needs root="):
        load_dataset("rec:movielens")
    with pytest.raises(
        FileNotFoundError, match=r"not hold movielens: .*download ml-latest-small\.zip"
    ):
        load_dataset("rec:movielens", root=tmp_path)
