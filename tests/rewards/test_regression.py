"""Regression of rewards: what early stopping keeps, and what is left as it was."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_drpo.rewards import RewardRegression, assign_folds

N = 120


def make_rows(noise: float = 1.0, count: int = N) -> TensorDict:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=g)
    reward = 50 + 3 * x[:, :1] + noise * torch.randn(count, 1, generator=g)
    user = torch.arange(count) % 15
    return TensorDict({"action": x, "user": user, "next": {"reward": reward}}, batch_size=[count])


class Counted(nn.Module):
    """A network that notes how it was called."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.calls: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.training, x.detach()))
        return self.net(x)


def counted() -> TensorDictModule:
    return TensorDictModule(Counted(), ["action"], ["value"])


def held_out(rows: TensorDictBase, regression: RewardRegression) -> Tensor:
    """The rows that tell when to stop, by what the network was asked in evaluation mode."""
    calls = regression(rows).network.module.calls
    asked = next(x for training, x in calls if not training)
    return (rows["action"][:, None] == asked[None]).all(-1).any(-1)


def test_the_best_look_is_kept_and_patience_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    rows = make_rows(noise=3.0)
    regression = RewardRegression(
        counted, learning_rate=0.03, weight_decay=0.0, check_every=5, patience=4, batch_size=64
    )
    held = held_out(rows, regression)
    outputs: list[Tensor] = []
    with monkeypatch.context() as patch:  # what the network said, call by call
        plain = Counted.forward
        patch.setattr(Counted, "forward", lambda *a: outputs.append(plain(*a)) or outputs[-1])
        model = regression(rows)
    learned = [x for training, x in model.network.module.calls if training]
    assert held.sum() == N // 10
    assert not any((x[:, None] == rows["action"][held]).all(-1).any() for x in learned)

    reward = rows["next", "reward"][held]
    looks = [
        float((model.mean + model.std * out - reward).square().mean())
        for (training, _), out in zip(model.network.module.calls, outputs, strict=True)
        if not training
    ]
    kept = float((model(rows[held].clone())["value"] - reward).square().mean())
    assert kept == pytest.approx(min(looks), rel=1e-6)
    assert looks[-1] > 1.02 * min(looks)  # what is kept is not simply the last
    assert len(looks) == looks.index(min(looks)) + 1 + 4  # four looks in vain, and no more
    assert len(learned) == 5 * len(looks) < regression.steps


def test_the_standardised_network_is_read_in_the_rewards_units():
    rows = make_rows(noise=0.0)
    linear = lambda: TensorDictModule(nn.Linear(4, 1), ["action"], ["value"])  # noqa: E731
    regression = RewardRegression(linear, learning_rate=0.05, weight_decay=0.0)
    model = regression(rows)
    reward = rows["next", "reward"]
    fold = assign_folds(N, 10, seed=1)  # of seed 0
    learned = reward[fold != 0]
    torch.testing.assert_close(model.mean, learned.mean())
    torch.testing.assert_close(model.std, learned.std())
    torch.testing.assert_close(model(rows.clone())["value"], reward, rtol=0, atol=0.05)
    inner = model.network.module(rows["action"])
    torch.testing.assert_close(model(rows.clone())["value"], model.mean + model.std * inner)


def test_users_are_held_out_together():
    rows = make_rows()
    regression = RewardRegression(counted, group_key="user", held_out=0.2, steps=2)
    held = held_out(rows, regression)
    assert held.sum() == 3 * (N // 15)
    assert not set(rows["user"][held].tolist()) & set(rows["user"][~held].tolist())


def test_what_it_returns_is_frozen_and_in_evaluation_mode():
    model = RewardRegression(counted, steps=2)(make_rows())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())


def test_the_same_seed_gives_the_same_model_and_the_global_state_is_left_alone():
    rows = make_rows()
    dropping = lambda: TensorDictModule(  # noqa: E731
        nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), ["action"], ["value"]
    )
    regression = RewardRegression(dropping, steps=20)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = regression(rows).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    second = regression(rows).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = RewardRegression(dropping, steps=20, seed=1)(rows).state_dict()
    assert not torch.equal(first["network.module.0.weight"], other["network.module.0.weight"])


def test_the_rows_are_left_as_they_were():
    rows = make_rows()
    before = rows.clone()
    RewardRegression(counted, steps=2)(rows)
    assert set(rows.keys(True, True)) == set(before.keys(True, True))
    assert (rows == before).all()


def test_divergence_is_an_error():
    rows = make_rows()
    with pytest.raises(ValueError, match=r"diverged: .* learning_rate \(1e\+30\)"):
        RewardRegression(counted, learning_rate=1e30, steps=20, check_every=10)(rows)
    rows["action"][:] = math.nan
    with pytest.raises(ValueError, match="look for non-finite inputs"):
        RewardRegression(counted, steps=2)(rows)


def test_an_early_good_look_survives_a_later_divergence():
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.steps = nn.Parameter(torch.zeros(4, 1)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += self.training
            return x @ self.weight * (math.nan if self.steps > 30 else 1.0)

    broken = lambda: TensorDictModule(Breaks(), ["action"], ["value"])  # noqa: E731
    model = RewardRegression(broken, check_every=10, learning_rate=0.1)(make_rows())
    assert model.network.module.steps == 30 + 10 * 5  # patience
    assert torch.isfinite(model.network.module.weight).all()
    assert model.network.module.weight[0] > 0.3  # 30 steps towards the reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be .* got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"held_out": 0.0}, r"held_out must lie in \(0, 0.5\], got 0.0"),
        ({"held_out": 0.9}, r"held_out must lie in \(0, 0.5\], got 0.9"),  # and not half of them
    ],
)
def test_bad_numbers_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RewardRegression(counted, **options)


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match="10 folds need as many rows, got 9"):
        RewardRegression(counted)(make_rows(count=9))
    with pytest.raises(ValueError, match="needs 2 rows to learn from, got 1"):
        RewardRegression(counted, held_out=0.5)(make_rows(count=2))
    with pytest.raises(KeyError, match=r"no rewards at .*gain"):
        RewardRegression(counted, reward_key="gain")(make_rows())
