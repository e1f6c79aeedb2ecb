"""Both distributions inside TorchRL: actors, exploration types, and TorchRL's own losses."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss, ReinforceLoss

from torchrl_drpo.distributions import CatalogueCategorical, SemanticIDCategorical

S, D, V, N = 6, 4, 11, 8


class _Dense(Categorical):
    """What CatalogueCategorical stands for, with all logits kept."""

    def __init__(self, hidden, items):
        super().__init__(logits=hidden @ items.T)


def actor_of(distribution):
    torch.manual_seed(1)
    items = nn.Parameter(torch.randn(V, D))
    network = TensorDictModule(nn.Linear(S, D), in_keys=["observation"], out_keys=["hidden"])
    actor = ProbabilisticActor(
        network,
        in_keys=["hidden"],
        distribution_class=distribution,
        distribution_kwargs={"items": items},
        return_log_prob=True,
    )
    return actor, items


def batch():
    torch.manual_seed(2)
    return TensorDict(
        {
            "observation": torch.randn(N, S),
            "action": torch.randint(V, (N,)),
            "action_log_prob": -2 * torch.rand(N) - 1,
            "advantage": torch.randn(N, 1),
            "value_target": torch.randn(N, 1),
            "next": {
                "observation": torch.randn(N, S),
                "reward": torch.randn(N, 1),
                "done": torch.ones(N, 1, dtype=torch.bool),
                "terminated": torch.ones(N, 1, dtype=torch.bool),
            },
        },
        [N],
    )


@pytest.mark.parametrize("kind", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_an_actor_acts(kind):
    actor, items = actor_of(CatalogueCategorical)
    td = batch().select("observation")
    with set_exploration_type(kind), torch.no_grad():
        out = actor(td)
    policy = actor.get_dist(td)
    assert isinstance(policy, CatalogueCategorical)
    assert policy.items is items
    assert out["action"].dtype == torch.int64
    torch.testing.assert_close(out["action_log_prob"], policy.log_prob(out["action"]))
    if kind is ExplorationType.DETERMINISTIC:
        assert torch.equal(out["action"], policy.logits.argmax(-1))


@pytest.mark.parametrize("loss_class", [ReinforceLoss, ClipPPOLoss, KLPENPPOLoss])
def test_torchrls_losses_give_what_dense_logits_give(loss_class):
    results = []
    for distribution in (CatalogueCategorical, _Dense):
        actor, items = actor_of(distribution)
        critic = ValueOperator(nn.Linear(S, 1), in_keys=["observation"])
        loss, td = loss_class(actor, critic), batch()
        td["hidden"] = torch.linspace(-1, 1, N * D).view(N, D)  # the old policy, for the KL
        out = loss(td)
        total = sum(value for key, value in out.items() if key.startswith("loss"))
        total.backward()
        weight = loss.actor_network_params["module", "0", "module", "weight"].grad
        results.append((total.detach(), weight, items.grad))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][1].abs().sum() > 0
    assert results[0][2].abs().sum() > 0


def test_a_semantic_id_actor_with_a_mask():
    levels, codes = 3, 5
    network = TensorDictModule(
        nn.Sequential(nn.Linear(S, levels * codes), nn.Unflatten(-1, (levels, codes))),
        in_keys=["observation"],
        out_keys=["logits"],
    )
    actor = ProbabilisticActor(
        network,
        in_keys=["logits", "mask"],
        distribution_class=SemanticIDCategorical,
        return_log_prob=True,
    )
    td = batch().select("observation")
    td["mask"] = torch.rand(N, levels) < 0.8
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(td)
    assert out["action"].shape == (N, levels)
    expected = Categorical(logits=out["logits"]).log_prob(out["action"])
    expected = torch.where(td["mask"], expected, 0).sum(-1)
    torch.testing.assert_close(out["action_log_prob"], expected)


def test_reinforce_trains_a_semantic_id_actor():
    levels, codes = 3, 5
    network = TensorDictModule(
        nn.Sequential(nn.Linear(S, levels * codes), nn.Unflatten(-1, (levels, codes))),
        in_keys=["observation"],
        out_keys=["logits"],
    )
    actor = ProbabilisticActor(
        network, in_keys=["logits"], distribution_class=SemanticIDCategorical
    )
    loss = ReinforceLoss(actor, ValueOperator(nn.Linear(S, 1), in_keys=["observation"]))
    td = batch()
    td["action"] = torch.randint(codes, (N, levels))
    found = loss(td)["loss_actor"]
    logits = actor.get_dist(td).logits
    log_prob = logits.gather(-1, td["action"][..., None])[..., 0].sum(-1)
    torch.testing.assert_close(found, -(log_prob * td["advantage"][:, 0]).mean())


def test_a_bare_probabilistic_module_draws_many():
    module = ProbabilisticTensorDictModule(
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=CatalogueCategorical,
        distribution_kwargs={"items": torch.randn(V, D)},
        default_interaction_type=InteractionType.RANDOM,
        num_samples=7,
    )
    out = module(TensorDict({"hidden": torch.randn(N, D)}, [N]))
    assert out["action"].shape == (7, N)
