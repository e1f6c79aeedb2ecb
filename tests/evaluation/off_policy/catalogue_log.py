"""A random log of a catalogue, a policy and a reward model for it, and dense tables of both."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import nn

from torchrl_drpo import make_catalogue_actor
from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
from torchrl_drpo.policies import catalogue_policy

N, V, D, L = 60, 37, 4, 3


def make_log(count: int = N, items: int = V) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    log = TensorDict({"action": torch.randint(items - 5, (count,), generator=g)}, [count])
    log["observation", "history"] = torch.randint(-1, items, (count, L), generator=g)
    log["next", "reward"] = torch.rand(count, 1, generator=g)
    log["propensity"] = 0.01 + 0.5 * torch.rand(count, generator=g)
    log["user"] = torch.arange(count) // 3
    log["x"] = torch.randn(count, 2, generator=g)
    return log


def make_actor(items: int = V, *, bias: bool = True):
    torch.manual_seed(2)
    actor = make_catalogue_actor(items, dim=D, history=L, temperature=0.7, bias=bias)
    if bias:
        nn.init.normal_(catalogue_policy(actor).bias)
    return actor


def make_model(items: int = V) -> InnerProductReward:
    g = torch.Generator().manual_seed(3)
    table, bias = torch.randn(items, 2, generator=g), torch.randn(items, generator=g)
    return InnerProductReward(
        lambda rows: rows["x"], table, bias, lambda rows: rows["x"].sum(-1), in_keys=["x"]
    )


def dense(actor, log, model) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and predictions of all items at all rows, float64 ``[N, V]``."""
    policy = catalogue_policy(actor)
    with torch.no_grad():
        hidden = actor.get_dist(log).hidden.double()
        bias = 0 if policy.bias is None else policy.bias.double()
        logits = (hidden @ policy.items.double().T + bias) / 0.7
        x = log["x"].double()
        q = x @ model.items.double().T + model.bias.double() + x.sum(-1, keepdim=True)
    return logits.log_softmax(-1), q
