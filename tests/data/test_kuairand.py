"""The real KuaiRand log: counts as published, quality and histories against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from tests.data.ordered import ordered
from torchrl_drpo.data import ConversionReport, RecReplayBuffer

LOG = "log_standard_20220425_20220508.parquet"


def test_kuairand_counts_quality_and_histories(real_logs):
    folder = real_logs / "kuairand_pure_part"
    log = RecReplayBuffer.from_parquet(folder / LOG, "kuairand", test_days=3, history=20)
    assert log.report == ConversionReport(
        rows_read=228_329, rows=222_869, duplicates=5_460, users=25_156, items=7_583,
        items_logged=6_361, trajectories=25_156, parts={"train": 180_384, "test": 42_485},
        first_test_day="2022-05-06", held_out="rows from 2022-05-06 on",
        initial_history_users=24_548, tied_rows=4_198,
    )  # fmt: skip
    frame = ordered(pd.read_parquet(folder / LOG), by=("user_id", "time_ms"))
    frame = frame.reset_index(drop=True)
    rows = log[:]
    # the video table numbers its videos 0..7582, so numbers and ids agree
    assert rows["action"].tolist() == frame["video_id"].tolist()
    for label in ("is_click", "long_view", "play_time_ms"):
        np.testing.assert_array_equal(rows[label], frame[label])

    train = frame["date"] < 20220506
    seconds = frame["duration_ms"] / 1000
    bucket = np.where(seconds > 0, np.floor(np.log2(np.maximum(seconds, 1))), -1)
    expected = np.full(len(frame), np.nan)
    for value in np.unique(bucket):
        here = bucket == value
        known = np.sort(frame["play_time_ms"][here & train])
        if len(known) >= 20:
            play = frame["play_time_ms"][here]
            less, upto = (np.searchsorted(known, play, side) for side in ("left", "right"))
            expected[here] = (less + upto) / 2 / len(known)
    thin = np.isnan(expected)
    assert thin.mean() < 1e-3
    np.testing.assert_allclose(log.quality.numpy()[~thin], expected[~thin], atol=1e-6)
    np.testing.assert_array_equal(log.split("test").quality, log.quality[~train.to_numpy()])

    past = pd.read_parquet(folder / "user_watch_history_to_20220424.parquet")
    before = dict(zip(past["user_id"], past["watch_seq"], strict=True))
    tied = frame["user_id"][frame.duplicated(["user_id", "time_ms"], keep=False)].unique()
    for user in [*frame["user_id"].unique()[::997], *tied[::97]]:
        at = np.flatnonzero(frame["user_id"] == user)
        for row in at:
            earlier = at[frame["time_ms"][at] < frame["time_ms"][row]]
            window = [*before.get(user, []), *frame["video_id"][earlier]][-20:]
            want = torch.tensor([-1] * (20 - len(window)) + window)
            assert torch.equal(rows["observation", "history"][row], want)


def test_without_its_side_tables_the_catalogue_is_the_logs_own(real_logs, tmp_path):
    (tmp_path / LOG).symlink_to(real_logs / "kuairand_pure_part" / LOG)
    report = RecReplayBuffer.from_parquet(tmp_path / LOG, "kuairand").report
    assert (report.items, report.items_logged) == (6_361, 6_361)
    assert set(report.missing_tables) == {
        "video_features.parquet", "user_watch_history_to_20220424.parquet",
    }  # fmt: skip
