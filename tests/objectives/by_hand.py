"""What formulas by hand are made of, and how a loss is held to one."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from tests.objectives.cases import Actor


def log_prob(actor: Actor, data: TensorDict) -> Tensor:
    """By torch's own distributions, from the network's raw outputs."""
    out = actor[0](data.select("observation").copy())
    if "loc" in out.keys():  # noqa: SIM118
        return Independent(Normal(out["loc"], out["scale"]), 1).log_prob(data["action"])
    return Categorical(logits=out["logits"]).log_prob(data["action"])


def advantage(data: TensorDict, baseline: str = "mean") -> Tensor:
    reward = data["next", "reward"].squeeze(-1)
    return reward - (reward.mean() if baseline == "mean" else reward.min())


def check(loss: torch.nn.Module, actor: Actor, data: TensorDict, expected: Tensor) -> None:
    """Loss and gradients equal those of the expression by hand."""
    out = loss(data)["loss_actor"]
    torch.testing.assert_close(out, expected)
    ours = torch.autograd.grad(out, list(loss.actor_network_params.parameters()))
    by_hand = torch.autograd.grad(expected, list(actor.parameters()), retain_graph=True)
    torch.testing.assert_close(ours, by_hand)
