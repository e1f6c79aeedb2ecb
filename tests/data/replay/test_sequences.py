"""A log by whole sequences, against the same rows read one by one."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torchrl.data import SamplerWithoutReplacement

from torchrl_drpo.data import InitialHistory, LogSchema, RecReplayBuffer
from torchrl_drpo.data.replay import sequences

L = 6
NAMES = ("history", "history_time", "history_feedback")


def log(seed: int = 0, users: int = 30) -> pd.DataFrame:
    """Users of 1 to 20 rows, with ties in time, some of a test part, some of no worth."""
    rng = np.random.default_rng(seed)
    frames = []
    for user in range(users):
        count = int(rng.integers(1, 21))
        time = np.sort(rng.integers(0, 15, count))
        late = rng.random(count) < 0.2
        part = np.where((np.arange(count) == count - 1) | late, "test", "train")
        frames.append(
            pd.DataFrame(
                {
                    "u": user,
                    "i": rng.integers(0, 50, count),
                    "t": time,
                    "y": rng.integers(0, 2, count) * 1.0,
                    "x": rng.random(count),
                    "c": rng.integers(0, 3, count),
                    "part": part,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def buffer_of(frame: pd.DataFrame, part: str | None = None, **schema) -> RecReplayBuffer:
    columns = {"user": "u", "item": "i", "time": "t", "quality": "y", "split": "part"}
    found = LogSchema(**columns, context=("c",), features=("x",), **schema)
    whole = RecReplayBuffer.from_pandas(frame, found, history=L)
    return whole if part is None else whole.split(part)


@pytest.mark.parametrize("part", [None, "train", "test"])
@pytest.mark.parametrize("schema", [{}, {"history_rows": "positive"}, {"history_gap": 3}])
def test_every_row_is_in_one_piece_with_the_history_that_it_has_alone(part, schema) -> None:
    buffer = buffer_of(log(), part, **schema)
    pieces = buffer.sequences()
    found = pieces[:]
    mask = found["collector", "mask"]
    assert int(mask.sum()) == len(buffer)
    alone = buffer[:]
    for key in ("action", "user", "time", ("next", "reward"), ("observation", "context")):
        assert torch.equal(found[key][mask], alone[key]), key
    whole, short = 0, 0
    row = 0
    for piece in range(len(pieces)):
        history = found["observation", "history"][piece]
        history = history[history >= 0]
        for place in range(int(mask[piece].sum())):
            seen = history[: int(found["observation", "seen"][piece, place])]
            expected = alone["observation", "history"][row]
            expected = expected[expected >= 0]
            if len(seen) == len(expected):
                whole += 1
            else:  # of a sequence that is longer than a window
                assert len(expected) == L
                assert len(seen) >= L // 2
                short += 1
            assert torch.equal(seen, expected[len(expected) - len(seen) :])
            row += 1
    assert row == len(buffer)
    assert whole > 100 if part is None else whole > 10
    if part is None and not schema:
        assert short > 10


def test_rows_of_one_instant_have_seen_as_much_as_each_other() -> None:
    frame = pd.DataFrame({"u": 0, "i": [5, 6, 7, 8], "t": [1, 2, 2, 3], "y": 1.0})
    schema = LogSchema(user="u", item="i", time="t", quality="y")
    (piece,) = RecReplayBuffer.from_pandas(frame, schema, history=L).sequences()[:]
    assert piece["observation", "seen"].tolist() == [0, 1, 1, 3]
    first, *tied = piece["observation", "history"].tolist()
    assert (first, sorted(tied)) == (0, [1, 2])


def test_what_users_did_before_the_log_is_seen_too(tmp_path) -> None:
    frame = log(users=5).drop(columns=["part", "x", "c"])
    frame["i"] %= 20
    before = pd.DataFrame({"u": [0, 2], "past": [[3, 4, 5], [6]]})
    before.to_parquet(tmp_path / "past.parquet")
    names = InitialHistory(path=str(tmp_path / "past.parquet"), user="u", items="past")
    schema = LogSchema(user="u", item="i", time="t", quality="y", initial_history=names)
    buffer = RecReplayBuffer.from_pandas(frame, schema, history=40)
    pieces, alone = buffer.sequences()[:], buffer[:]
    mask = pieces["collector", "mask"]
    seen = pieces["observation", "seen"][mask]
    assert torch.equal(seen, (alone["observation", "history"] >= 0).sum(-1))


def test_pieces_are_the_same_however_many_rows_are_looked_at_together(monkeypatch) -> None:
    whole = buffer_of(log()).sequences().storage.offsets
    for together in (1, 7, 100):
        monkeypatch.setattr(sequences, "_ROWS_AT_A_TIME", together)
        assert torch.equal(buffer_of(log()).sequences().storage.offsets, whole)


def test_many_rows_that_enter_no_history_are_cut_into_pieces() -> None:
    frame = pd.DataFrame({"u": 0, "i": range(50), "t": range(50), "y": 0.0})
    frame.loc[0, "y"] = 1.0
    columns = {"user": "u", "item": "i", "time": "t", "quality": "y"}
    schema = LogSchema(**columns, history_rows="positive")
    pieces = RecReplayBuffer.from_pandas(frame, schema, history=L).sequences()
    found = pieces[:]
    assert found["action"].shape[1] == L + 1
    assert int(found["collector", "mask"].sum()) == 50
    assert found["observation", "history"].shape == (len(pieces), 1)


def test_an_epoch_is_every_row_once_and_is_drawn_again_by_the_same_seed() -> None:
    def epoch(seed: int) -> list[torch.Tensor]:
        pieces = buffer_of(log(), "train").sequences(
            sampler=SamplerWithoutReplacement(),
            batch_size=4,
            generator=torch.Generator().manual_seed(seed),
        )
        count = -(-len(pieces) // 4)
        return [pieces.sample() for _ in range(count)]

    drawn, again = epoch(3), epoch(3)
    rows = torch.cat([piece["time"][piece["collector", "mask"]] for piece in drawn])
    assert len(rows) == len(buffer_of(log(), "train"))
    for one, other in zip(drawn, again, strict=True):
        assert torch.equal(one["action"], other["action"])


def test_logs_without_sequences_are_refused() -> None:
    frame = log().drop(columns=["u", "part"])
    schema = LogSchema(item="i", quality="y", duplicates="keep")
    with pytest.raises(ValueError, match="no users with sequences"):
        RecReplayBuffer.from_pandas(frame, schema).sequences()


def test_pieces_are_read_only_and_know_their_log() -> None:
    pieces, other = (buffer_of(log(seed)).sequences() for seed in (0, 1))
    storage = pieces.storage
    with pytest.raises(RuntimeError, match="read-only"):
        storage.set(0, None)
    storage.load_state_dict(storage.state_dict())
    with pytest.raises(ValueError, match="another log"):
        other.storage.load_state_dict(storage.state_dict())
    longer = RecReplayBuffer.open(storage.rows.log.store.root, history=2 * L).sequences()
    with pytest.raises(ValueError, match="open the log with the history"):
        longer.storage.load_state_dict(storage.state_dict())
    assert torch.equal(copy.deepcopy(storage).offsets, storage.offsets)


@pytest.mark.parametrize("schema", [{}, {"history_rows": "positive"}, {"history_gap": 3}])
def test_histories_know_when_their_rows_were_and_what_they_were_worth(schema) -> None:
    frame = log()
    whole = buffer_of(frame, **schema)
    root = whole.storage.log.store.root
    buffer = RecReplayBuffer.open(root, history=L, history_columns=("time", "feedback"))
    rows, flat = buffer[:], whole[:]
    user, time, reward = flat["user"], flat["time"], flat["next", "reward"][:, 0]
    gap = schema.get("history_gap", 0)
    for row in range(len(buffer)):
        earlier = (user[:row] == user[row]) & (time[:row] < time[row] - gap)
        if schema.get("history_rows") == "positive":
            earlier &= reward[:row] > 0
        past = earlier.nonzero()[:, 0][-L:]
        count = len(past)
        found = {name: rows["observation", name][row] for name in NAMES}
        assert (found["history"] >= 0).sum() == count
        padded = {name: values[: L - count] for name, values in found.items()}
        assert (padded["history"] == -1).all()
        assert not padded["history_time"].any()
        assert not padded["history_feedback"].any()
        shown = {name: values[L - count :] for name, values in found.items()}
        assert torch.equal(shown["history"], flat["action"][past])
        assert torch.equal(shown["history_time"], time[past])
        assert torch.equal(shown["history_feedback"], reward[past])
    part = buffer.split("test")
    at = part.storage.global_rows(torch.arange(len(part)))
    for name in NAMES:
        assert torch.equal(part[:]["observation", name], rows["observation", name][at])
    # Whole sequences have the columns of their one history, and users those of their latest.
    pieces = buffer.sequences()[:]
    last = buffer.sequences().storage.offsets[1:] - 1
    longest = pieces["observation", "history"].shape[1]
    for name in NAMES:
        assert torch.equal(pieces["observation", name], rows["observation", name][last, -longest:])
    latest = buffer.latest_history_columns([3, 8], L)
    for number, raw in enumerate((3, 8)):
        mine = (user == buffer.users.encode([raw])[0]) & (
            (reward > 0) | (schema.get("history_rows") != "positive")
        )
        assert latest["history_time"][number].tolist()[-1] == time[mine][-1]
        assert latest["history_feedback"][number].tolist()[-1] == reward[mine][-1]


def test_history_columns_that_there_are_not_are_refused(tmp_path) -> None:
    frame = log(users=5)
    whole = buffer_of(frame)
    with pytest.raises(ValueError, match="history_columns are time and feedback, got 'price'"):
        RecReplayBuffer.open(whole.storage.log.store.root, history_columns=("price",))
    with pytest.raises(ValueError, match="next_observation has no history_columns"):
        RecReplayBuffer.open(
            whole.storage.log.store.root, history_columns=("time",), next_observation=True
        )
    single = LogSchema(item="i", quality="y", duplicates="keep")
    with pytest.raises(ValueError, match="these rows have none"):
        RecReplayBuffer.from_pandas(frame, single, history_columns=("feedback",))
    with pytest.raises(ValueError, match="rows have no time"):
        RecReplayBuffer.from_pandas(frame, single, history_columns=("time",))
    pd.DataFrame({"u": [0], "past": [[3, 4]]}).to_parquet(tmp_path / "past.parquet")
    names = InitialHistory(path=str(tmp_path / "past.parquet"), user="u", items="past")
    columns = {"user": "u", "item": "i", "time": "t", "quality": "y"}
    schema = LogSchema(**columns, initial_history=names)
    with pytest.raises(ValueError, match="did before the log has neither times nor feedback"):
        RecReplayBuffer.from_pandas(frame, schema, history_columns=("time",))
