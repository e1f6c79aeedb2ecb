"""Policy times critic: the normalised product, and its ends."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import make_catalogue_actor
from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.policies.conditioned import make_conditioned_actor
from torchrl_drpo.policies.served import asked_policy
from torchrl_drpo.policies.tilted import make_tilted_actor, tilted_policy
from torchrl_drpo.rewards import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

ITEMS, HISTORY = 13, 3


def random_critic(contexts: tuple[int, ...] = (2,), num_features: int = 0) -> CatalogueReward:
    def member() -> StandardisedReward:
        network = two_tower_module(
            ITEMS, dim=4, history=HISTORY, context_sizes=contexts, num_features=num_features
        )
        return StandardisedReward(network)

    model = CatalogueReward([member() for _ in range(3)]).double()
    for number, one in enumerate(model.members):
        for parameter in one.parameters():
            parameter.data.normal_()
        one.mean.fill_(0.3)
        one.std.fill_(0.5 + number)  # members of different scales
    return model.requires_grad_(False).eval()


def random_actor(contexts: tuple[int, ...] = (2,), **options) -> ProbabilisticActor:
    actor = make_catalogue_actor(
        ITEMS, dim=5, history=HISTORY, context_sizes=contexts, temperature=0.7, **options
    ).double()
    if asked_policy(actor).bias is not None:
        asked_policy(actor).bias.data.normal_()
    return actor.eval()


def some_rows(n: int = 9, num_features: int = 0) -> TensorDict:
    observation = {
        "history": torch.randint(-1, ITEMS, (n, HISTORY)),
        "context": torch.randint(-1, 2, (n, 1)),
    }
    if num_features:
        observation["features"] = torch.randn(n, num_features, dtype=torch.double)
    return TensorDict({"observation": observation}, [n])


def product(actor: ProbabilisticActor, critic: CatalogueReward, rows, tau: float) -> torch.Tensor:
    """pi exp(Q / tau), normalised, from the two alone."""
    weight = actor.get_dist(rows).probs * (critic.predict_all(rows) / tau).exp()
    return weight / weight.sum(-1, keepdim=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tau", [0.5, 3.0])
def test_probabilities_are_the_normalised_product(bias: bool, tau: float) -> None:
    actor, critic, rows = random_actor(bias=bias), random_critic(), some_rows()
    dist = make_tilted_actor(actor, critic, tau).get_dist(rows)
    wanted = product(actor, critic, rows, tau)
    torch.testing.assert_close(dist.probs, wanted)
    item = torch.randint(ITEMS, (9,))
    torch.testing.assert_close(dist.log_prob(item).exp(), wanted.gather(1, item[:, None])[:, 0])


def test_with_features_and_a_condition_inside() -> None:
    trained = random_actor((2, 4), num_features=2)
    asked_policy(trained).encoder.scaler.fit_(torch.ones(2), torch.full((2,), 2.0))
    actor, critic = make_conditioned_actor(trained, 1.5), random_critic(num_features=2)
    rows = some_rows(num_features=2)
    dist = make_tilted_actor(actor, critic, 0.8).get_dist(rows)
    torch.testing.assert_close(dist.probs, product(actor, critic, rows, 0.8))


def test_the_best_items_are_those_of_brute_force_and_of_the_index() -> None:
    actor, critic, rows = random_actor(), random_critic(), some_rows()
    tilted = make_tilted_actor(actor, critic, 0.6)
    dist = tilted.get_dist(rows)
    wanted = product(actor, critic, rows, 0.6).topk(4).indices
    assert torch.equal(dist.topk(4).indices, wanted)
    assert torch.equal(tilted(rows.clone())["action"], wanted[:, 0])
    index = ItemIndex.from_policy(tilted_policy(tilted), list(range(ITEMS)))
    assert torch.equal(index.top_k(dist.hidden, 4)[1], wanted)


def test_a_large_tau_leaves_the_policy_and_a_small_one_takes_the_critics_best() -> None:
    actor, critic, rows = random_actor(), random_critic(), some_rows()
    tilted = make_tilted_actor(actor, critic, 1e9)
    hidden = tilted.get_dist(rows).hidden
    torch.testing.assert_close(tilted.get_dist(rows).probs, actor.get_dist(rows).probs)
    tilted_policy(tilted).tau = 1e-4
    assert torch.equal(tilted.get_dist(rows).mode, critic.predict_all(rows).argmax(-1))
    assert torch.equal(tilted.get_dist(rows).hidden, hidden)  # queries may be kept


def test_what_the_state_alone_is_worth_cancels() -> None:
    actor, critic, rows = random_actor(), random_critic(), some_rows()
    other = copy.deepcopy(critic)
    for member in other.members:
        member.network.module.value.weight.data.mul_(7.0)
    first, second = (make_tilted_actor(actor, each, 0.5).get_dist(rows) for each in (critic, other))
    assert not torch.allclose(critic.predict_all(rows), other.predict_all(rows))
    torch.testing.assert_close(first.probs, second.probs)


def test_draws_have_the_tilted_probabilities() -> None:
    actor, critic, rows = random_actor(), random_critic(), some_rows(1)
    dist = make_tilted_actor(actor, critic, 2.0).get_dist(rows)
    count = dist.sample((40_000,)).flatten().bincount(minlength=ITEMS)
    wanted = product(actor, critic, rows, 2.0)[0]
    error = (wanted * (1 - wanted) / 40_000).sqrt()
    assert ((count / 40_000 - wanted).abs() < 5 * error + 1e-4).all()


def test_the_policy_inside_is_shared_and_the_keys_are_its_own() -> None:
    inside = make_catalogue_actor(
        ITEMS, dim=5, history=HISTORY, context_sizes=(2,), history_key="seen"
    ).double()
    tilted = make_tilted_actor(inside, random_critic(), 0.5)
    assert tilted.in_keys[0] == "seen"
    assert {id(p) for p in inside.parameters()} <= {id(p) for p in tilted.parameters()}


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tau_that_is_none_is_refused(tau: float) -> None:
    actor, critic = random_actor(), random_critic()
    with pytest.raises(ValueError, match="tau"):
        make_tilted_actor(actor, critic, tau)
    tilted = tilted_policy(make_tilted_actor(actor, critic, 1.0))
    with pytest.raises(ValueError, match="tau"):
        tilted.tau = tau


def test_a_critic_of_another_log_is_refused() -> None:
    with pytest.raises(ValueError, match="reads 1 context columns and the critic 0"):
        make_tilted_actor(random_actor(), random_critic(()), 1.0)
    with pytest.raises(TypeError, match="make_tilted_actor"):
        tilted_policy(random_actor())
