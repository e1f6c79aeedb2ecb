"""The geometric mean of an action's ratios: GSPO's, in GBPO and ECPO, by hand in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

import torchrl_drpo as drpo
from tests.objectives.cases import batch, categorical_actor

N, T, CODES, STATE = 30, 3, 5, 4


class Codes(nn.Module):
    """Logits of three levels; the last number of a state says how many of them count."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(STATE, T * CODES, dtype=torch.float64)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.arange(T) < state[..., -1:]
        return self.net(state).unflatten(-1, (T, CODES)), levels


def codes_actor() -> ProbabilisticActor:
    return ProbabilisticActor(
        TensorDictModule(Codes(), ["observation"], ["logits", "mask"]),
        in_keys=["logits", "mask"],
        out_keys=["action"],
        distribution_class=drpo.SemanticIDCategorical,
    )


def codes_batch(*shape: int) -> TensorDict:
    torch.manual_seed(1)
    state = torch.randn(*shape, STATE, dtype=torch.float64)
    state[..., -1] = torch.randint(1, T + 1, shape).double()
    rows = {
        "observation": state,
        "action": torch.randint(CODES, (*shape, T)),
        "behavior_log_prob": -torch.rand(*shape, dtype=torch.float64) * 6,
        "next": {"reward": torch.randn(*shape, dtype=torch.float64)},
    }
    return TensorDict(rows, shape)


def by_hand(actor: ProbabilisticActor, data: TensorDict) -> tuple[Tensor, Tensor]:
    """Log-probability of each action with its gradient, and how many levels count in it."""
    logits, mask = actor[0].module(data["observation"])
    chosen = logits.log_softmax(-1).gather(-1, data["action"][..., None])[..., 0]
    return (chosen * mask).sum(-1), mask.sum(-1)


def same(loss: nn.Module, actor: ProbabilisticActor, data: TensorDict, expected: Tensor) -> None:
    ours = torch.autograd.grad(loss(data)["loss_actor"], list(loss.parameters()))
    theirs = torch.autograd.grad(expected, list(actor.parameters()))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("source", ["logged", "current"])
def test_ecpo_is_the_clipped_geometric_mean(source: str, steps: int | None) -> None:
    actor = codes_actor()
    data = codes_batch(N) if steps is None else codes_batch(N, steps)
    log_prob, count = by_hand(actor, data)
    old, reward = data["behavior_log_prob"], data["next", "reward"]
    if steps is not None:
        log_prob, count, old, reward = (x.sum(1) for x in (log_prob, count, old, reward))
    old = old if source == "logged" else log_prob.detach()
    signed = (reward - reward.mean()) / (reward.std() + 1e-8)
    mean, old = (log_prob / count).exp(), (old / count).exp()
    raised = torch.where(signed < 0, torch.maximum(mean.detach() / 1.3, old), old)
    ratio = mean / raised
    surrogate = torch.minimum(ratio * signed, ratio.clamp(0.8, 1.2) * signed)
    options: dict[str, Any] = {"behavior": source, "ratio": "geometric_mean"}
    loss = drpo.ECPOLoss(actor, level="step" if steps is None else "trajectory", **options)
    same(loss, actor, data, -surrogate.mean())
    torch.testing.assert_close(loss(data)["loss_actor"], -surrogate.mean())
    left = mean / old
    clipped = torch.where(signed >= 0, left > 1.2, left < 0.8).double().mean()
    torch.testing.assert_close(loss(data)["clip_fraction"].double(), clipped)


@pytest.mark.parametrize("source", ["logged", "current"])
def test_gbpo_bounds_the_mean_choice(source: str) -> None:
    actor, data = codes_actor(), codes_batch(N)
    log_prob, count = by_hand(actor, data)
    mean = (log_prob / count).exp()
    old = (data["behavior_log_prob"] / count).exp() if source == "logged" else mean.detach()
    signed = data["next", "reward"] - data["next", "reward"].mean()
    bound = torch.where(signed >= 0, mean.detach(), 1 - mean.detach())
    published = -(mean / torch.maximum(old, bound) * signed).mean()
    loss = drpo.GBPOLoss(actor, behavior=source, ratio="geometric_mean")
    same(loss, actor, data, published)


@pytest.mark.parametrize("loss", [drpo.GBPOLoss, drpo.ECPOLoss])
def test_an_action_of_one_choice_has_one_ratio(loss: type) -> None:
    actor = categorical_actor()
    data = batch(actor, N)
    outcomes = [
        loss(actor, behavior="logged", ratio=kind)(data)["loss_actor"]
        for kind in ("product", "geometric_mean")
    ]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("loss", [drpo.GBPOLoss, drpo.ECPOLoss])
def test_the_product_is_another_objective_and_other_words_are_refused(loss: type) -> None:
    actor, data = codes_actor(), codes_batch(N)
    outcomes = [
        loss(actor, behavior="logged", ratio=kind)(data)["loss_actor"]
        for kind in ("product", "geometric_mean")
    ]
    assert not torch.isclose(*outcomes)
    with pytest.raises(ValueError, match="ratio must be 'product' or 'geometric_mean', got 'seq"):
        loss(actor, ratio="sequence")
