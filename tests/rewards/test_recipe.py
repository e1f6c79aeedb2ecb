"""``uphill_log``: the same rows with moved actions, and nothing that a row told about itself."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.data import RecReplayBuffer
from torchrl_drpo.rewards import (
    bilinear,
    cross_fit_bilinear,
    out_of_fold,
    uphill_actions,
    uphill_log,
)

N = 60
# Most of these rows are noise, and what is tested is how they are moved.
pytestmark = pytest.mark.filterwarnings("ignore:the reward model explains:UserWarning")


def make_rows(seed: int = 0) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    columns = {
        "observation": torch.randn(N, 3, generator=g),
        "action": torch.randn(N, 2, generator=g),
        "next": {"reward": torch.rand(N, 1, generator=g)},
    }
    return TensorDict(columns, [N])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.half])
def test_a_log_of_clicks_is_moved_as_one_of_numbers(dtype: torch.dtype):
    rows = make_rows()
    clicks = (rows["next", "reward"] > rows["next", "reward"].median()).to(dtype)
    found = uphill_log(rows.copy().set(("next", "reward"), clicks), folds=2)
    expected = uphill_log(rows.copy().set(("next", "reward"), clicks.float()), folds=2)
    for key in ("action", "predicted_reward"):
        assert torch.equal(found[key], expected[key])


def test_it_is_the_three_steps_in_one() -> None:
    rows = make_rows()
    before = rows.clone()
    out = uphill_log(rows, step=0.7, folds=3, landmarks=20, seed=4)
    columns = rows["observation"], rows["action"]
    reward = rows["next", "reward"].squeeze(-1)
    models, fold = cross_fit_bilinear(*columns, reward, folds=3, landmarks=20, seed=4)
    predicted, slope = out_of_fold(models, fold, *columns)
    assert torch.equal(out["action"], uphill_actions(rows["action"], slope, 0.7))
    assert torch.equal(out["predicted_reward"], predicted)
    assert torch.equal(out["fold"], fold)
    assert torch.equal(out["logged_action"], before["action"])
    assert out["next", "reward"] is rows["next", "reward"]
    assert (rows == before).all()
    assert set(rows.keys(True)) == set(before.keys(True))


def test_a_step_of_zero_moves_nothing() -> None:
    rows = make_rows()
    assert torch.equal(uphill_log(rows, step=0.0)["action"], rows["action"])


def test_a_buffer_goes_in_and_comes_out() -> None:
    buffer = RecReplayBuffer.from_tensordict(make_rows())
    moved = RecReplayBuffer.from_tensordict(uphill_log(buffer[:]), batch_size=8)
    batch = moved.sample()
    assert batch["action"].shape == (8, 2)
    assert (batch["action"] != batch["logged_action"]).any(-1).all()


def test_other_names_are_taken() -> None:
    rows = make_rows()
    named = TensorDict(
        {"state": rows["observation"], "vector": rows["action"], "r": rows["next", "reward"]}, [N]
    )
    out = uphill_log(named, observation_key="state", action_key="vector", reward_key="r")
    assert torch.equal(out["vector"], uphill_log(rows)["action"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"action": torch.zeros(N, dtype=torch.long)}, ValueError, "item numbers have no direc"),
        ({"observation": torch.zeros(N)}, ValueError, "'observation' must be one floating vector"),
        ({"action": None}, KeyError, "no tensor at .*action.*; the rows have"),
        ({"action": torch.full((N, 2), torch.nan)}, ValueError, "action"),
    ],
)
def test_rows_that_cannot_be_moved_are_named(change: dict, error: type, message: str) -> None:
    rows = make_rows()
    for key, value in change.items():
        rows = rows.exclude(key) if value is None else rows.set(key, value)
    with pytest.raises(error, match=message):
        uphill_log(rows)


def test_it_warns_where_the_model_knows_next_to_nothing_and_only_there() -> None:
    rows = make_rows().set("user", torch.arange(N) // 5)
    for key, over in ((None, "rows"), ("user", "groups")):
        said = rf"explains -\d+\.\d\d% of .* standard error of \d+\.\d\d% over {over}: .* noise"
        with pytest.warns(UserWarning, match=said) as caught:
            uphill_log(rows, group_key=key)
        assert caught[0].filename == __file__  # the caller's line
    rows["next", "reward"] = torch.cosine_similarity(rows["observation"][:, :2], rows["action"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uphill_log(rows)


def test_only_flat_rows_are_taken() -> None:
    with pytest.raises(ValueError, match=r"batch size \[N\], got \(12, 5\)"):
        uphill_log(make_rows().reshape(12, 5))


def test_rows_of_a_group_are_judged_by_a_model_that_saw_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bilinear, "RIDGES", (3.0,))  # the one number that folds share
    rows = make_rows().set("user", torch.arange(N) // 5)
    out = uphill_log(rows, folds=4, landmarks=10, group_key="user")
    by_user = out["fold"].view(-1, 5)
    assert (by_user == by_user[:, :1]).all()
    changed = rows.clone()
    changed["next", "reward"][:5] += 100.0  # all that the first user said
    again = uphill_log(changed, folds=4, landmarks=10, group_key="user")
    mine = out["fold"] == out["fold"][0]
    torch.testing.assert_close(again["predicted_reward"][mine], out["predicted_reward"][mine])
    with pytest.raises(KeyError, match="session"):
        uphill_log(rows, group_key="session")
