"""D-U1: the world by brute force, batched training against plain torch, events by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure as Canvas
from tensordict import TensorDict
from torch.distributions import Categorical

from torchrl_drpo import TOPRLoss
from torchrl_drpo.envs import du1
from torchrl_drpo.reproduction.cells import run_cells
from torchrl_drpo.reproduction.controlled.arms import Arm
from torchrl_drpo.reproduction.controlled.du1.modes import Mode
from torchrl_drpo.reproduction.controlled.du1.target import BOTH, TAPERS, TARGET
from torchrl_drpo.reproduction.controlled.du1.training import OneStateCategorical, Training
from torchrl_drpo.reproduction.target import Options


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("cells")
    return run_cells(TARGET.cells(Options(quick=True)), folder, workers=1)["du1"]


def test_a_world_logs_what_it_says():
    world = du1.make_world(40, seed=2)
    torch.testing.assert_close(world.items.norm(dim=-1), torch.ones(64))
    assert world.reward.min() >= 0
    assert world.reward.max() <= 1
    logged = torch.cat([world.best.unsqueeze(-1), world.positives, world.negatives], -1)
    assert all(len(set(row)) == 10 for row in logged.tolist())  # the best action is never logged
    # R = (1 + t*.e) / 2 with all four coordinates of t* in 64 rewards: t* itself, and so the rest.
    target = torch.linalg.lstsq(world.items, (2 * world.reward - 1).T).solution.T
    torch.testing.assert_close(target.norm(dim=-1), torch.ones(40))
    cosine = target @ world.items.T
    far = cosine.gather(-1, world.negatives[:, 1:]).mean(-1)
    assert (far < cosine.gather(-1, world.positives).mean(-1)).all()
    assert (far < cosine.gather(-1, world.negatives[:, :1]).squeeze(-1)).all()


def test_other_states_are_of_the_same_world():
    one, other = du1.make_world(5, seed=4), du1.make_world(5, seed=4, states=1)
    assert torch.equal(one.items, other.items)
    assert not torch.isclose(one.state, other.state).any()


def test_one_state_categorical_is_a_categorical():
    logits = torch.randn(3, 1, 64).expand(3, 9, 64)
    action = torch.randint(64, (3, 9))
    expected = Categorical(logits=logits).log_prob(action)
    torch.testing.assert_close(OneStateCategorical(logits).log_prob(action), expected)


def test_every_policy_of_the_stack_gets_the_gradient_of_its_own_arm():
    arms = [Arm("both", 2.0, BOTH, TAPERS["exponential"]), Arm("far", 0.5, du1.FAR)]
    training = Training(arms, [0, 3], learn_kappa=True)
    batch = training.batch()
    loss = training.loss(batch)["loss_actor"]
    (loss.sum() / loss.shape[1]).backward()
    network, log_kappa = training.policies.direction, training.policies.log_kappa
    for index, (arm, seed) in enumerate((a, s) for a in arms for s in (0, 3)):
        items = du1.make_world(1, seed).items
        weights = [p[index].detach().requires_grad_() for p in (*network.weights, *network.biases)]
        kappa = log_kappa[index].detach().requires_grad_()
        x = batch["observation"][index, :, 0]
        for layer in range(3):
            x = x @ weights[layer] + weights[3 + layer]
            x = x.tanh() if layer < 2 else x
        log_pi = Categorical(logits=kappa.exp() * (x / x.norm(dim=-1, keepdim=True)) @ items.T)
        action = batch["action"][index]
        log_prob = torch.stack([log_pi.log_prob(column) for column in action.T], -1)
        negative = log_prob[:, [4 + k for k in arm.negatives]]
        surprisal = -negative.detach()
        taper = torch.exp(-math.log(2) * (surprisal - 2).clamp_min(0) / 2) if arm.taper else 1.0
        objective = log_prob[:, :4].mean(1) - arm.alpha * (taper * negative).mean(1)
        expected = torch.autograd.grad(-objective.mean(), [*weights, kappa])
        found = [p.grad[index] for p in (*network.weights, *network.biases, log_kappa)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_topr_arm_is_topr_on_a_uniform_log():
    training = Training([Arm("TOPR", 1.5, BOTH, TAPERS["TOPR"])], [1], learn_kappa=True)
    batch = training.batch()
    topr = TOPRLoss(training.loss.actor_network, reduction="none", functional=False)
    logged = TensorDict({**batch, "propensity": torch.full(batch.shape, 1 / 64)}, batch.shape)
    expected = topr(logged)["loss_actor"]
    torch.testing.assert_close(training.loss(batch)["loss_actor"], expected)


def test_events_follow_from_the_recorded_numbers(results):
    results = copy.deepcopy(results)
    result = results["local-fixed"]["result"]
    result["steps"] = [100, 200, 300, 400, 500]
    share, entropy = result["metrics"]["share"], result["metrics"]["entropy"]
    for when in range(5):
        share[when] = [[0.8, 0.8] for _ in share[when]]
        entropy[when] = [[2.0, 2.0] for _ in entropy[when]]
    for when in (2, 3, 4):
        share[when][1][0] = 0.3  # below .45 * .8, three times
    entropy[3][2][1] = 0.01
    mode = Mode(results, "fixed")
    names = list(mode.local.arms)
    assert mode.events(names[0]) == [{}, {}]
    assert mode.events(names[1]) == [{"task_collapse": 500}, {}]
    assert mode.events(names[2]) == [{}, {"support_boundary": 400}]


def test_the_section_shows_every_arm_and_draws(results):
    section = TARGET.section(Options(quick=True), results)
    for table, mode in zip(section.tables, ("fixed", "learned"), strict=True):
        cells = [results[f"{part}-{mode}"]["result"]["arms"] for part in ("local", "controls")]
        assert len(table.rows) == sum(map(len, cells))
    for figure in section.figures:
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        assert canvas.axes
