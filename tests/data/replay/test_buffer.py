"""A log's rows in a replay buffer: against brute force, sampled, resumed and opened again."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchrl.data import (
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
)

from tests.data.ordered import ordered
from torchrl_drpo.data import (
    InitialHistory,
    LogSchema,
    RecReplayBuffer,
    TrajectorySampler,
    WindowUnit,
)

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click", context=("tab",),
    features=("mood", "age"), propensity="propensity", session_gap=86_400.0,
)  # fmt: skip
KEPT = SCHEMA.replace(duplicates="keep")


def brute_history(users, times, items, length, before=None):
    """Row by row: the user's items of earlier times, behind what came before the log."""
    rows = list(zip(users, times, items, strict=True))
    out = []
    for user, time, _ in rows:
        past = list((before or {}).get(user, []))
        past += [item for u, t, item in rows if u == user and t < time]
        window = past[-length:] if length else []
        out.append([-1] * (length - len(window)) + window)
    return out


@pytest.fixture
def buffer(frame) -> RecReplayBuffer:
    return RecReplayBuffer.from_pandas(
        frame, SCHEMA, history=5, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("length", [1, 5, 60, 200])  # the last takes more than one block
@pytest.mark.parametrize("with_past", [False, True])
def test_histories_equal_brute_force(frame, tmp_path, length, with_past):
    schema, before = SCHEMA, {}
    frame.to_parquet(tmp_path / "log.parquet")
    if with_past:
        rng = np.random.default_rng(5)
        users = rng.permutation(np.append(frame["user"].unique()[::2], 999_999))
        past = [(rng.integers(0, 45, rng.integers(0, 9)) * 7).tolist() for _ in users]
        pd.DataFrame({"uid": users, "seq": past}).to_parquet(tmp_path / "past.parquet")
        schema = SCHEMA.replace(initial_history=InitialHistory("past.parquet", "uid", "seq"))
        before = dict(zip(users, past, strict=True))
    buffer = RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema, history=length)
    kept = ordered(frame)
    past = {u: buffer.items.encode(v).tolist() for u, v in before.items() if u != 999_999 and v}
    past |= {u: [] for u in frame["user"] if u not in past}
    items = buffer.items.encode(kept["item"].to_numpy()).tolist()
    expected = brute_history(kept["user"].tolist(), kept["time"].tolist(), items, length, past)
    assert buffer[:]["observation", "history"].tolist() == expected
    if with_past:
        assert buffer.report.initial_history_users == sum(1 for v in past.values() if v)
    # what is recommended from: the window after the last row
    user = int(kept["user"].iloc[-1])
    whole = past[user] + [i for i, u in zip(items, kept["user"], strict=True) if u == user]
    latest = buffer.latest_history([user])[0].tolist()
    assert latest == [-1] * (length - len(whole[-length:])) + whole[-length:]
    with pytest.raises(KeyError, match="id 5 is not in the catalogue"):
        buffer.latest_history([5])


def test_samples_are_rows(buffer):
    everything = buffer[:]
    sample = buffer.sample(64)
    assert (everything[sample["index"]] == sample.exclude("index")).all()
    assert sample["next", "reward"].dtype == torch.float32
    assert sample["action"].dtype == sample["observation", "history"].dtype == torch.int64
    assert sample["observation", "features"].dtype == torch.float32
    assert sample["observation", "features"].shape == (64, 2)
    assert sample["next", "done"].shape == sample["next", "terminated"].shape == (64, 1)
    assert (buffer[3] == everything[3]).all()
    assert (buffer[torch.tensor([[1, 2], [0, -1]])][1] == everything[[0, -1]]).all()
    with pytest.raises(IndexError, match="row 10000 is outside"):
        buffer[torch.tensor([10_000])]


def test_parts_cover_the_log_and_keep_histories_whole(frame):
    whole = RecReplayBuffer.from_pandas(frame, SCHEMA, history=4, test_days=2, batch_size=8)
    train, test = whole.split("train"), whole.split("test", batch_size=3)
    rows, cut = whole[:], 4 * 86_400
    early = rows["time"] < cut
    assert (train[:] == rows[early]).all()
    assert (test[:] == rows[~early]).all()
    assert (whole.report.first_test_day, len(train), test.batch_size) == (
        "1970-01-05", int(early.sum()), 3,
    )  # fmt: skip
    assert (torch.cat(list(test.batches(7))) == test[:]).all()
    torch.testing.assert_close(test.quality, rows["next", "reward"][~early, 0])
    assert all(train.sample()["time"].lt(cut).all() for _ in range(20))
    with pytest.raises(ValueError, match="no part 'valid' in this log; it has train, test"):
        whole.split("valid")
    with pytest.raises(ValueError, match="it was not split"):
        RecReplayBuffer.from_pandas(frame, SCHEMA).split("train")


@pytest.mark.parametrize("part", ["train", "test"])
def test_features_are_the_row_s_own_in_every_way_out(frame, part):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, history=0, test_days=2).split(part)
    kept = ordered(frame)
    kept = kept[(kept["time"] < 4 * 86_400) == (part == "train")]
    expected = torch.tensor(kept[["mood", "age"]].to_numpy(np.float32))
    key = ("observation", "features")
    assert torch.equal(buffer.column(key), expected)
    assert torch.equal(buffer[:][key], expected)
    assert torch.equal(torch.cat([rows[key] for rows in buffer.batches(11)]), expected)
    sample = buffer.sample(32)
    assert torch.equal(sample[key], expected[sample["index"]])
    plain = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(features=()), test_days=2)
    assert key not in plain.split(part)[:].keys(include_nested=True)


def test_next_observations_are_the_following_states(frame):
    rows = RecReplayBuffer.from_pandas(frame, SCHEMA, history=6, next_observation=True)[:]
    history = rows["observation", "history"]
    after = torch.cat([history[:, 1:], rows["action"][:, None]], dim=1)
    assert (rows["next", "observation", "history"] == after).all()
    done = rows["next", "done"].squeeze(-1)
    for name in ("context", "features"):
        now, following = rows["observation", name], rows["next", "observation", name]
        assert (following[:-1][~done[:-1]] == now[1:][~done[:-1]]).all()
        assert (following[done] == now[done]).all()


def test_torchrl_samplers_work(buffer):
    count = len(buffer)
    buffer.set_sampler(SamplerWithoutReplacement())
    seen = torch.cat([buffer.sample(10)["index"] for _ in range(count // 10)])
    assert len(set(seen.tolist())) == len(seen)
    buffer.set_sampler(SliceSampler(slice_len=3, traj_key="trajectory_id", strict_length=False))
    slices = buffer.sample(30)
    trajectory = slices["trajectory_id"]
    inside = ~slices["next", "truncated"].squeeze(-1)[:-1]
    assert (trajectory[1:][inside] == trajectory[:-1][inside]).all()
    assert slices["observation", "history"].shape[1] == 5
    buffer.set_sampler(RandomSampler())
    buffer.append_transform(lambda td: td.set("twice", 2 * td["next", "reward"]))
    assert "twice" in buffer.sample(8).keys()  # noqa: SIM118 (TensorDict)


def test_prefetch_gives_batches(frame):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, batch_size=8, prefetch=2)
    assert all(buffer.sample().batch_size == (8,) for _ in range(5))
    buffer.shutdown()


@pytest.mark.parametrize("sampler", [RandomSampler, SamplerWithoutReplacement])
@pytest.mark.parametrize("way", ["state_dict", "dumps"])
def test_resume_is_exact(frame, tmp_path, sampler, way):
    def make(seed):
        return RecReplayBuffer.from_pandas(
            frame, SCHEMA, root=tmp_path / "log", sampler=sampler(), batch_size=32,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

    first, second = make(1), make(2)
    first.sample(), first.sample()
    if way == "state_dict":
        second.load_state_dict(first.state_dict())
    else:
        first.dumps(tmp_path / "saved")
        second.loads(tmp_path / "saved")
    for _ in range(20):
        assert first.sample()["index"].tolist() == second.sample()["index"].tolist()


def test_a_checkpoint_of_another_log_is_refused(frame, buffer):
    other = RecReplayBuffer.from_pandas(frame.iloc[:50], SCHEMA)
    with pytest.raises(ValueError, match="made with another log or part"):
        other.load_state_dict(buffer.state_dict())


def test_the_log_is_read_only(buffer):
    with pytest.raises(RuntimeError, match="doesn't allow writing"):
        buffer.empty()
    with pytest.raises(RuntimeError, match="doesn't allow writing"):
        buffer.extend(buffer.sample(2))
    with pytest.raises(RuntimeError, match="read-only"):
        buffer[0] = buffer[1]


def test_pickled_buffers_read_the_same_files(buffer, frame):
    pickled = pickle.dumps(buffer)
    again = pickle.loads(pickled)
    assert (again[:20] == buffer[:20]).all()
    big = RecReplayBuffer.from_pandas(pd.concat([frame] * 40), KEPT, test_days=2).split("train")
    assert len(pickle.dumps(big)) < len(pickled) + 5_000  # file names travel, rows do not
    assert (pickle.loads(pickle.dumps(big))[:9] == big[:9]).all()


@pytest.mark.parametrize("part", [None, "train", "test"])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_returns_to_go_sum_what_follows_in_the_trajectory(frame, part, gamma):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, test_days=2)
    buffer = buffer if part is None else buffer.split(part)
    rows, expected, running = buffer[:], [], 0.0
    trajectory = rows["trajectory_id"].tolist()
    for row in reversed(range(len(rows))):
        new = row + 1 == len(rows) or trajectory[row] != trajectory[row + 1]
        running = rows["next", "reward"][row].item() + (0.0 if new else gamma * running)
        expected.append(running)
    torch.testing.assert_close(buffer.returns_to_go(gamma), torch.tensor(expected[::-1]))
    with pytest.raises(ValueError, match="gamma must lie"):
        buffer.returns_to_go(1.1)


def test_slates_are_sampled_whole_with_a_propensity_each():
    log = pd.DataFrame(
        {
            "u": [1] * 3 + [2] * 2 + [1], "i": [5, 6, 7, 5, 6, 8], "t": [0, 0, 0, 1, 1, 2],
            "p": [1, 3, 2, 2, 1, 1], "s": [10, 10, 10, 11, 11, 12], "r": [0, 0, 1, 1, 0, 1],
            "mu": [0.5, 0.4, 0.3, 0.2, 0.1, 0.6],
        }
    )  # fmt: skip
    schema = LogSchema(
        user="u", item="i", time="t", quality="r", slate="s", position="p", propensity="mu"
    )
    buffer = RecReplayBuffer.from_pandas(
        log, schema, history=0, sampler=TrajectorySampler("slate"),
        sample_unit=WindowUnit(3, by="slate"),
    )  # fmt: skip
    slates = {10: [(5, 0.5), (7, 0.3), (6, 0.4)], 11: [(6, 0.1), (5, 0.2)], 12: [(8, 0.6)]}
    seen = set()
    for row in buffer.sample(60):
        mask = row["collector", "mask"]
        propensity = [round(p, 4) for p in row["propensity"][mask].tolist()]
        found = list(zip(buffer.items.decode(row["action"][mask]), propensity, strict=True))
        seen.add(next(name for name, slate in slates.items() if slate == found))
    assert seen == set(slates)


def test_windows_stay_within_trajectories(frame):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, history=2, test_days=3)
    for part in (buffer, buffer.split("test")):
        rows = part[:]
        starts, window = torch.arange(len(part)), WindowUnit(4)
        index, info = window.expand(starts, {"weight": starts}, part.storage)
        mask = info["collector", "mask"]
        for start in range(len(part)):
            group = (rows["trajectory_id"] == rows["trajectory_id"][start]).nonzero().squeeze(1)
            expected = [i for i in group.tolist() if start <= i < start + 4]
            assert index[start][mask[start]].tolist() == expected
        assert index.shape == info["weight"].shape == mask.shape
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, sample_unit=WindowUnit(4), batch_size=6)
    sample = buffer.sample()
    assert sample.batch_size == (6, 4)
    assert sample["observation", "history"].shape == (6, 4, 20)
    assert (sample["trajectory_id"] == sample["trajectory_id"][:, :1]).all()
    with pytest.raises(ValueError, match="length must be at least 1"):
        WindowUnit(0)
    with pytest.raises(ValueError, match="by must be"):
        WindowUnit(2, by="user")


def test_a_temporary_log_goes_with_its_buffers(frame):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA, test_days=2)
    folder = Path(buffer._log.store.root)
    part = buffer.split("train")
    del buffer
    assert len(part.sample(4)) == 4
    assert folder.is_dir()
    del part
    import gc

    gc.collect()
    assert not folder.exists()


def test_an_unknown_column_is_named(buffer):
    with pytest.raises(KeyError, match="no column 'clicks' in this log; it has action"):
        buffer.column("clicks")


def test_a_converted_log_opens_again(frame, parquet, tmp_path):
    RecReplayBuffer.from_parquet(parquet, SCHEMA, root=tmp_path / "log", test_days=2)
    again = RecReplayBuffer.open(tmp_path / "log", part="test", history=3)
    assert again.schema == SCHEMA
    assert again[0]["observation", "history"].shape == (3,)
    with pytest.raises(ValueError, match="history must be 0 or more"):
        RecReplayBuffer.open(tmp_path / "log", history=-1)


def test_samples_hold_the_columns_that_were_asked_for():
    frame = pd.DataFrame({"u": [1, 1, 2], "i": [5, 6, 5], "t": [1, 2, 3], "y": [1.0, 0.0, 1.0]})
    schema = LogSchema(user="u", item="i", time="t", quality="y")
    log = RecReplayBuffer.from_pandas(frame, schema, history=2, batch_size=4)
    transitions = {"observation", "action", "next", "index"}
    assert {*transitions, "user", "time"} <= set(log.sample().keys())
    for columns, expected in (((), transitions), (("user",), {*transitions, "user"})):
        chosen = RecReplayBuffer.from_pandas(
            frame, schema, history=2, batch_size=4, columns=columns
        )
        assert set(chosen.sample().keys()) == expected
        assert set(chosen.sample(return_info=True)[0].keys()) == expected
        assert chosen[:].keys() == log[:].keys()
    with pytest.raises(ValueError, match=r"no column 'users' .* it has \['.*'user'"):
        RecReplayBuffer.from_pandas(frame, schema, columns=("users",))
