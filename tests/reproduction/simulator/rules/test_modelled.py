"""Rules that ask a reward model first, against the model asked seed by seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.reproduction.simulator.small_worlds import (
    SEEDS,
    batch_of,
    make_policies,
    make_worlds,
    rows_of,
)
from torchrl_drpo import ExponentialTaper
from torchrl_drpo.reproduction.simulator.rules import (
    DirectMethod,
    Predicted,
    Signed,
    TopFraction,
    Uphill,
    UphillAtServing,
)
from torchrl_drpo.reproduction.simulator.training import Schedule, train
from torchrl_drpo.rewards.bilinear import fit_bilinear_reward
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions


@pytest.fixture
def worlds():
    return make_worlds()


def judged(worlds, number: int) -> tuple[Tensor, Tensor]:
    log = worlds.log[number]
    models, fold = cross_fit_bilinear(log["observation"], log["action"], log["reward"], folds=3)
    return out_of_fold(models, fold, log["observation"], log["action"])


def test_predicted_rewards_take_the_place_of_the_rewards(worlds):
    before = worlds.log.clone()
    base = TopFraction(kappa=0.2, quality="predicted_reward")
    rule = Predicted(base, folds=3)
    rule.prepare(worlds, make_policies(worlds), 1)
    row = rows_of(worlds)
    for number in range(2):
        predicted, _ = judged(worlds, number)
        torch.testing.assert_close(worlds.log["predicted_reward"][number], predicted)
    for name in ("observation", "action", "reward"):
        assert torch.equal(worlds.log[name], before[name])
    batch = batch_of(worlds, row)
    found = rule.weigh(batch, 0)
    best = batch["predicted_reward"].topk(8).indices
    assert torch.equal((found != 0).sum(-1), torch.tensor([7, 7]))  # the eighth is the threshold
    assert (found.gather(1, best)[:, :7] > 0).all()
    assert torch.equal(rule.report()["kappa"], torch.full((2,), 0.2))


def test_uphill_moves_the_actions_and_nothing_else(worlds):
    before = worlds.log.clone()
    rule = Uphill(Signed(taper=ExponentialTaper(threshold=0.5)), step=0.4, folds=3)
    policies = make_policies(worlds)
    rule.prepare(worlds, policies, 1)
    for number in range(2):
        log = before[number]
        models, fold = cross_fit_bilinear(log["observation"], log["action"], log["reward"], folds=3)
        _, slope = out_of_fold(models, fold, log["observation"], log["action"])
        expected = uphill_actions(log["action"], slope, 0.4)
        torch.testing.assert_close(worlds.log["action"][number], expected)
        moved = (expected - log["action"]).norm(dim=-1)
        assert moved.mean().item() == pytest.approx(0.4 * math.sqrt(12), rel=1e-4)
    for name in ("observation", "reward", "latent_reward"):
        assert torch.equal(worlds.log[name], before[name])
    row = rows_of(worlds)
    scores, batch = policies.score(*worlds.read(row)), batch_of(worlds, row)
    torch.testing.assert_close(worlds.read(row)[1][0], worlds.log["action"][0][row[0]])
    weight = rule.weigh(batch, 0)
    assert torch.equal(
        rule.reweigh(weight, scores, batch, 0), rule.base.reweigh(weight, scores, batch, 0)
    )
    assert not torch.equal(rule.reweigh(weight, scores, batch, 0), weight)


def test_a_seeds_model_does_not_depend_on_the_other_seeds():
    both, alone = make_worlds(), make_worlds(SEEDS[1:])
    for worlds in (both, alone):
        Uphill(Signed(), folds=3).prepare(worlds, make_policies(worlds), 1)
    torch.testing.assert_close(both.log["action"][1], alone.log["action"][0])


def model_of(worlds, number: int):
    log = worlds.log[number]
    return fit_bilinear_reward(log["observation"], log["action"], log["reward"])


def test_what_the_models_explain_is_reported(worlds):
    rule = Uphill(Signed(), folds=3)
    before = worlds.log.clone()
    rule.prepare(worlds, make_policies(worlds), 1)
    found = rule.report()
    worlds.log = before
    for number in range(2):
        predicted, _ = judged(worlds, number)
        reward = before["reward"][number]
        share = 1 - (predicted - reward).square().mean() / reward.var(correction=0)
        assert found["explained_variance"][number].item() == pytest.approx(share.item(), abs=1e-5)
        assert 0 < found["explained_variance_error"][number] < 1


def test_uphill_at_serving_trains_as_its_base_and_serves_further_up(worlds):
    schedule = Schedule(4, 16, 1e-3, 2)
    base = train(make_worlds(), Signed(negative_scale=0.0), schedule)
    rule = UphillAtServing(Signed(negative_scale=0.0), step=0.4)
    run = train(worlds, rule, schedule)
    for name, value in base.policies.parameters.items():
        assert torch.equal(run.policies.parameters[name], value)
    mean = run.policies.mean(worlds.users)
    served = rule.serve(mean, worlds.users)
    for number in range(2):
        model = model_of(worlds, number)
        log, users = worlds.log[number], worlds.users[number]
        # What the log's own moves are to its slopes, new users' moves are to theirs.
        slope = model.slope(log["observation"])
        moved = uphill_actions(log["action"], slope, 0.4) - log["action"]
        per_slope = (moved / slope).median()
        torch.testing.assert_close(served[number], mean[number] + per_slope * model.slope(users))
    found = worlds.evaluate(served)
    assert run.curves["retrieved_reward"][-1][1] == pytest.approx(
        sum(found["retrieved_reward"]) / 2
    )
    still = UphillAtServing(Signed(), step=0.0)
    still.prepare(worlds, run.policies, 1)
    assert torch.equal(still.serve(mean, worlds.users), mean)


def test_the_direct_method_serves_the_models_best_item_and_learns_nothing(worlds):
    start = make_policies(worlds).parameters["w2"].detach()
    rule = DirectMethod()
    run = train(worlds, rule, Schedule(3, 16, 1e-3, 3))
    assert torch.equal(run.policies.parameters["w2"].detach(), start)
    served = rule.serve(run.policies.mean(worlds.users), worlds.users)
    for number, world in enumerate(worlds.worlds):
        model, users = model_of(worlds, number), worlds.users[number]
        each = [model(users, item.expand(len(users), -1)) for item in world.items]
        best = torch.stack(each).argmax(0)
        assert torch.equal(world.retrieve(served[number]), best)
