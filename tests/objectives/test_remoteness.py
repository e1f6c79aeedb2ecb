"""The remoteness of every kind of policy, as tapers see it."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal
from torchrl.modules import ProbabilisticActor

import torchrl_drpo as drpo
from torchrl_drpo.functional.remoteness import sequence_remoteness
from torchrl_drpo.objectives._remoteness import remoteness_and_score

N, T, CODES = 12, 3, 5


def semantic(mask: Tensor | None = None, *batch: int) -> drpo.SemanticIDCategorical:
    return drpo.SemanticIDCategorical(torch.randn(*(batch or (N,)), T, CODES), mask)


def test_gaussian():
    dist = Independent(Normal(torch.randn(N, 4), torch.rand(N, 4) + 0.5), 1)
    action = torch.randn(N, 4)
    dist.loc, dist.scale = dist.base_dist.loc, dist.base_dist.scale
    distance, score = remoteness_and_score(dist, action, dist.log_prob(action))
    z = (action - dist.loc) / dist.scale
    torch.testing.assert_close(distance, z.square().sum(-1))
    torch.testing.assert_close(score, z.norm(dim=-1))
    mean, _ = remoteness_and_score(dist, action, dist.log_prob(action), "per_dimension")
    torch.testing.assert_close(mean, distance / 4)


def test_categorical():
    dist, action = Categorical(logits=torch.randn(N, CODES)), torch.randint(CODES, (N,))
    log_prob = dist.log_prob(action)
    distance, score = remoteness_and_score(dist, action, log_prob)
    torch.testing.assert_close(distance, -log_prob)
    torch.testing.assert_close(score, 1 - log_prob.exp())
    with pytest.raises(ValueError, match="'per_dimension' is for Gaussian policies"):
        remoteness_and_score(dist, action, log_prob, "per_dimension")


@pytest.mark.parametrize("masked", [False, True])
def test_token_sequences_take_the_mean_over_their_tokens(masked: bool):
    mask = torch.arange(T) < torch.randint(1, T + 1, (N, 1)) if masked else None
    dist, action = semantic(mask), torch.randint(CODES, (N, T))
    distance, _ = remoteness_and_score(dist, action, dist.log_prob(action))
    expected = sequence_remoteness(dist.token_log_prob(action), mask)
    torch.testing.assert_close(distance, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_trajectories_of_token_sequences_too(masked: bool):
    steps = torch.arange(4) < torch.randint(1, 5, (N, 1))
    mask = torch.rand(N, 4, T) < 0.7 if masked else None
    dist, action = semantic(mask, N, 4), torch.randint(CODES, (N, 4, T))
    log_prob = torch.where(steps, dist.log_prob(action), 0.0).sum(-1)
    distance, _ = remoteness_and_score(dist, action, log_prob, mask=steps)
    tokens = dist.token_log_prob(action).flatten(1)
    valid = steps.unsqueeze(-1).expand(N, 4, T) & (True if mask is None else mask)
    torch.testing.assert_close(distance, sequence_remoteness(tokens, valid.flatten(1)))


def test_a_tapered_loss_on_semantic_ids():
    net = nn.Sequential(nn.Linear(3, T * CODES), nn.Unflatten(-1, (T, CODES)))
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=drpo.SemanticIDCategorical,
    )
    data = TensorDict(
        {
            "observation": torch.randn(N, 3),
            "action": torch.randint(CODES, (N, T)),
            "next": {"reward": torch.randn(N)},
        },
        batch_size=[N],
    )
    taper = drpo.ExponentialTaper(threshold=1.0)
    out = drpo.RepulsiveLoss(actor, taper=taper)(data)
    logits = net(data["observation"])
    tokens = logits.log_softmax(-1).gather(-1, data["action"].unsqueeze(-1)).squeeze(-1)
    signed = data["next", "reward"] - data["next", "reward"].mean()
    factor = torch.exp(-(-tokens.mean(-1) - 1.0).clamp_min(0)).detach()
    weight = torch.where(signed < 0, factor * signed, signed)
    torch.testing.assert_close(out["loss_actor"], -(weight * tokens.sum(-1)).mean())
