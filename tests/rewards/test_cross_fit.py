"""Cross-fitted rewards: who judges whom, brute-force numbers, saving, and use by the losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_drpo import CrossFittedReward, DRPOLoss, GuidedLoss, RepulsiveLoss, make_gaussian_actor
from torchrl_drpo.rewards import RewardRegression, assign_folds
from torchrl_drpo.rewards.explained import explained_variance

N, P, D = 60, 3, 2


def make_rows(count: int = N, seed: int = 0) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    state, action = (torch.randn(count, k, generator=g) for k in (P, D))
    reward = (state[:, :D] * action).sum(-1, keepdim=True) + 1.0
    user = torch.arange(count) % 12
    columns = {"observation": state, "action": action, "user": user, "next": {"reward": reward}}
    return TensorDict(columns, batch_size=[count])


class Match(nn.Module):
    """<taste(s), a> + b."""

    def __init__(self) -> None:
        super().__init__()
        self.taste, self.level = nn.Linear(P, D, bias=False), nn.Parameter(torch.zeros(1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return (self.taste(state) * action).sum(-1) + self.level


def network(module: Callable[[], nn.Module] = Match) -> TensorDictModule:
    return TensorDictModule(module(), ["observation", "action"], ["value"])


def least_squares(rows: TensorDictBase) -> TensorDictModule:
    """The best ``Match`` for the rows, in closed form."""
    outer = (rows["observation"][:, None, :] * rows["action"][:, :, None]).flatten(1)
    design = torch.cat([outer, torch.ones(len(rows), 1)], -1).double()
    system = design.T @ design + 1e-3 * torch.eye(design.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(system, design.T @ rows["next", "reward"].double()).float()
    model = network()
    with torch.no_grad():
        model.module.taste.weight.copy_(solved[:-1].view(D, P))
        model.module.level.copy_(solved[-1])
    return model


class Remembers(nn.Module):
    """Predicts the mean reward of the rows that it was fitted to."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.mean + 0 * state[..., :1]


def remember(rows: TensorDictBase) -> TensorDictModule:
    return network(lambda: Remembers(rows["next", "reward"].mean()))


# -- fitting ------------------------------------------------------------------------------------


def test_a_member_is_fitted_to_the_rows_of_the_other_folds():
    rows, seen = make_rows(), []

    def fit(part: TensorDictBase) -> TensorDictModule:
        seen.append(part)
        return least_squares(part)

    CrossFittedReward.fit(rows, fit, folds=3, group_key="user", seed=4)
    fold = rows["fold"]
    assert torch.equal(fold, assign_folds(N, 3, group=rows["user"], seed=4))
    for k, part in enumerate(seen):
        assert torch.equal(part["observation"], rows["observation"][fold != k])
        assert not set(part["user"].tolist()) & set(rows["user"][fold == k].tolist())


def test_no_row_moves_its_own_prediction():
    plain, changed = make_rows(), make_rows()
    changed["next", "reward"][7] += 3.0
    for rows in (plain, changed):
        CrossFittedReward.fit(rows, least_squares, folds=3)
    mine = plain["fold"] == plain["fold"][7]
    assert torch.equal(changed["predicted_reward"][mine], plain["predicted_reward"][mine])
    assert (changed["predicted_reward"][~mine] != plain["predicted_reward"][~mine]).all()


def test_scale_and_explained_variance_are_those_of_the_out_of_fold_predictions():
    rows = make_rows()
    rows["next", "reward"] += torch.randn(N, 1, generator=torch.Generator().manual_seed(9))
    model = CrossFittedReward.fit(rows, least_squares, folds=3)
    predicted = [float(model.members[rows["fold"][i]](rows[i].clone())["value"]) for i in range(N)]
    reward = rows["next", "reward"].flatten().tolist()
    mean = sum(reward) / N
    error = sum((p - r) ** 2 for p, r in zip(predicted, reward, strict=True))
    spread = sum((r - mean) ** 2 for r in reward)
    assert float(model.explained_variance) == pytest.approx(1 - error / spread, rel=1e-4)
    assert 0.3 < float(model.explained_variance) < 0.9
    centre = sum(predicted) / N
    std = (sum((p - centre) ** 2 for p in predicted) / (N - 1)) ** 0.5
    assert float(model.scale) == pytest.approx(std, rel=1e-4)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())


def test_a_model_that_explains_nothing_warns():
    rows = make_rows()
    with pytest.warns(UserWarning, match=r"explains nothing .*\(explained_variance -0\.\d+, sta"):
        model = CrossFittedReward.fit(rows, remember, folds=3)
    assert float(model.explained_variance) < 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CrossFittedReward.fit(make_rows(), least_squares, folds=3)


def test_less_than_twice_the_standard_error_warns_too():
    rows = make_rows()
    g = torch.Generator().manual_seed(4)
    predicted = 0.1 * rows["next", "reward"].squeeze(-1)
    rows["next", "reward"] = predicted.unsqueeze(-1) + torch.randn(N, 1, generator=g)
    found = explained_variance(predicted, rows["next", "reward"].squeeze(-1))
    assert 0 < found.share < 2 * found.error

    def known(part: TensorDictBase) -> TensorDictModule:
        model = least_squares(make_rows())
        for parameter in model.parameters():
            parameter.data *= 0.1
        return model

    with pytest.warns(UserWarning, match=r"explains next to nothing .*0\.\d+ over rows\)"):
        CrossFittedReward.fit(rows, known, folds=3)


@pytest.mark.parametrize("given", [False, True])
def test_the_standard_error_is_over_users_where_they_are_named(given: bool):
    rows, plain = make_rows(), make_rows()
    for one in (rows, plain):
        one["next", "reward"] += torch.randn(12, 1, generator=torch.Generator().manual_seed(1))[
            one["user"]
        ]
        if given:  # folds that were made before
            one["fold"] = assign_folds(N, 3, group=one["user"])
    alone = CrossFittedReward.fit(plain, least_squares, folds=3)
    model = CrossFittedReward.fit(rows, least_squares, folds=3, group_key="user")
    for fitted, log, group in ((alone, plain, None), (model, rows, rows["user"])):
        reward = log["next", "reward"].squeeze(-1)
        expected = explained_variance(log["predicted_reward"], reward, group)
        torch.testing.assert_close(fitted.explained_variance, expected.share.float())
        torch.testing.assert_close(fitted.explained_variance_error, expected.error.float())
    assert model.explained_variance_error != alone.explained_variance_error


def test_rewards_without_spread_are_not_explained_and_leave_a_usable_scale():
    rows = make_rows()
    rows["next", "reward"] = torch.full((N, 1), 0.5)
    with pytest.warns(UserWarning, match="explained_variance 0.000"):
        model = CrossFittedReward.fit(rows, remember, folds=3)
    assert float(model.scale) == 1.0  # GuidedLoss divides by it


def test_clicks_as_integers_are_rewards_too():
    rows = make_rows()
    clicked = rows["next", "reward"] > 1
    rows["next", "reward"] = clicked.float()
    model = CrossFittedReward.fit(rows, least_squares, folds=3)
    logged = make_rows()
    logged["next", "reward"] = clicked.to(torch.int8)
    same = CrossFittedReward.fit(logged, least_squares, folds=3)
    assert torch.equal(same.explained_variance, model.explained_variance)
    assert logged["predicted_reward"].dtype == torch.float32


# -- reading ------------------------------------------------------------------------------------


def three_members() -> CrossFittedReward:
    return CrossFittedReward(
        [network(lambda k=k: Remembers(torch.tensor(float(k)))) for k in (1, 2, 6)]
    )


def test_a_fold_picks_its_member_and_new_rows_get_the_mean():
    model, rows = three_members(), make_rows(4)
    assert model(rows.clone())["predicted_reward"].tolist() == [3.0] * 4
    rows["fold"] = torch.tensor([0, 2, -1, 1])
    assert model(rows.clone())["predicted_reward"].tolist() == [1.0, 6.0, 3.0, 2.0]
    rows["fold"] = rows["fold"].unsqueeze(-1)
    assert model(rows.reshape(2, 2))["predicted_reward"].tolist() == [[1.0, 6.0], [3.0, 2.0]]


def test_out_of_fold_wants_a_fold_for_every_row():
    model, rows = three_members(), make_rows(3)
    with pytest.raises(KeyError, match="out-of-fold predictions need"):
        model.out_of_fold(rows)
    rows["fold"] = torch.tensor([0, -1, 1])
    with pytest.raises(ValueError, match="1 rows have no fold"):
        model.out_of_fold(rows)
    rows["fold"] = torch.tensor([0, 2, 1])
    assert model.out_of_fold(rows).tolist() == [1.0, 6.0, 2.0]
    assert "predicted_reward" not in rows.keys()  # noqa: SIM118
    rows["fold"][0] = 3
    with pytest.raises(ValueError, match=r"fold must lie in \[0, 3\).* got 3"):
        model.out_of_fold(rows)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rows = make_rows()
    model = CrossFittedReward.fit(rows, least_squares, folds=3)
    whole = rows.pop("predicted_reward")
    monkeypatch.setattr("torchrl_drpo.rewards.cross_fit._ROWS_AT_A_TIME", 7)
    torch.testing.assert_close(model.annotate(rows)["predicted_reward"], whole)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda r: r.exclude(("next", "reward")), KeyError, "no rewards at"),
        (lambda r: r.set("fold", torch.zeros(N, dtype=torch.long)), ValueError, r"\[60, 0, 0\]"),
        (lambda r: r.set("fold", torch.arange(N) % 4), ValueError, r"each of 3 folds, found \[15"),
        (lambda r: r.set("fold", torch.arange(N) % 3 - 1), ValueError, "got torch.int64 from -1"),
        (lambda r: r.set("fold", torch.zeros(N)), ValueError, "whole numbers .* torch.float32"),
        (lambda r: r.reshape(2, 30), ValueError, r"expected rows of batch size \[N\]"),
    ],
)
def test_logs_that_cannot_be_cross_fitted_are_refused(spoil, error: type, message: str):
    with pytest.raises(error, match=message):
        CrossFittedReward.fit(spoil(make_rows()), least_squares, folds=3)


def test_bad_rewards_and_members_are_named():
    rows = make_rows()
    rows["next", "reward"][3] = float("inf")
    with pytest.raises(ValueError, match=r"reward \('next', 'reward'\) must be finite but row 3"):
        CrossFittedReward.fit(rows, least_squares)
    with pytest.raises(ValueError, match="at least 2 members, got 1"):
        CrossFittedReward([network()])
    other = TensorDictModule(nn.Linear(P, 1), ["observation"], ["value"])
    with pytest.raises(ValueError, match="members must read the same entries"):
        CrossFittedReward([network(), other])
    wide = [network(lambda: nn.Bilinear(P, D, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match=r"one number a row, \(60,\), got \(60, 2\)"):
        CrossFittedReward(wide)(make_rows())


# -- saving, and use by the losses --------------------------------------------------------------


def test_a_saved_model_says_the_same(tmp_path):
    rows = make_rows()
    regression = RewardRegression(network, learning_rate=0.05, steps=60)
    model = CrossFittedReward.fit(rows, regression, folds=3)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = CrossFittedReward([regression.untrained() for _ in range(3)])
    assert not torch.allclose(loaded(rows.clone())["predicted_reward"], rows["predicted_reward"])
    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    loaded.eval()
    assert torch.equal(loaded(rows.clone())["predicted_reward"], rows["predicted_reward"])
    assert torch.equal(loaded.scale, model.scale)
    assert torch.equal(loaded.explained_variance, model.explained_variance)
    assert torch.equal(loaded.explained_variance_error, model.explained_variance_error)
    old = {name: v for name, v in model.state_dict().items() if not name.endswith("_error")}
    loaded.load_state_dict(old)
    assert loaded.explained_variance_error.isnan()
    assert len(old) == len(model.state_dict()) - 1  # as it was given


def test_guided_loss_climbs_the_member_that_has_not_seen_the_row():
    rows = make_rows()
    model = CrossFittedReward.fit(rows, least_squares, folds=3)
    actor = make_gaussian_actor(P, D, hidden=(4,))
    loss = GuidedLoss(actor, model, guidance=0.7, reduction="none")
    assert loss.reward_scale == model.scale
    mean = actor(rows.clone())["loc"]
    lead = []
    for row in range(N):
        member = model.members[rows["fold"][row]].module
        lead.append(member(rows["observation"][row], mean[row]).squeeze() / model.scale)
    reward = rows["next", "reward"].squeeze(-1)
    weight = ((reward - reward.mean()) / reward.std()).clamp_min(0)
    plain = GuidedLoss(actor, model, guidance=0.0, reduction="none")
    difference = loss(rows)["loss_actor"] - plain(rows)["loss_actor"]
    torch.testing.assert_close(difference, -0.7 * weight * torch.stack(lead))
    without = rows.exclude("fold")  # new to all: their mean
    assert not torch.allclose(loss(without)["loss_actor"], loss(rows)["loss_actor"])


def test_its_predictions_are_a_quality_and_an_advantage():
    rows = make_rows()
    CrossFittedReward.fit(rows, least_squares, folds=3)
    actor = make_gaussian_actor(P, D, hidden=(4,))
    predicted = rows["predicted_reward"]
    drpo = DRPOLoss(actor, kappa=0.25)
    drpo.set_keys(quality="predicted_reward")
    assert drpo(rows)["threshold"] == predicted.sort(descending=True).values[14]
    signed = RepulsiveLoss(actor, normalize=False)
    signed.set_keys(advantage="predicted_reward")
    log_prob = actor.get_dist(rows.clone()).log_prob(rows["action"])
    expected = -(predicted * log_prob).mean()
    torch.testing.assert_close(signed(rows)["loss_actor"], expected)
