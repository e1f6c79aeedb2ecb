from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictParams
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives.common import LossModule

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor

V, D, L, N = 30, 8, 4, 12
MEAN, STD = torch.tensor([5e4, -0.2]), torch.tensor([2e4, 0.01])
#: No entry but the history, either of the others alone, and both.
INPUTS = [
    {"context_sizes": sizes, "num_features": count} for sizes in ((), (3,)) for count in (0, 2)
]


def make(**kwargs):
    actor = make_catalogue_actor(V, **{"dim": D, "history": L, "context_sizes": (3,), **kwargs})
    policy = catalogue_policy(actor)
    if policy.bias is not None:
        torch.nn.init.normal_(policy.bias)
    if policy.encoder.scaler is not None:
        policy.encoder.scaler.fit_(MEAN, STD)
    return actor


def rows(n: int = N) -> TensorDict:
    history = torch.randint(V, (n, L))
    history[0] = -1
    history[1, :2] = -1
    observation = {
        "history": history,
        "context": torch.randint(-1, 3, (n, 1)),
        "features": MEAN + STD * torch.randn(n, 2),
    }
    return TensorDict({"observation": observation, "action": torch.randint(V, (n,))}, [n])


def log_prob_by_hand(policy, td: TensorDict) -> Tensor:
    """The policy in float64, written out again."""
    policy = copy.deepcopy(policy).double()
    table = policy.items if policy.history_items is None else policy.history_items
    out = []
    for row in td:
        seen = row["observation", "history"]
        seen = seen[seen >= 0]
        pooled = table[seen].mean(0) if len(seen) else policy.encoder.pooling.empty
        number = row["observation", "context"].item() + 1
        parts = [pooled, *(table.weight[number] for table in policy.encoder.context)]
        if policy.encoder.scaler is not None:
            parts.append((row["observation", "features"].double() - MEAN) / STD.double())
        logits = policy.items @ policy.encoder.mlp(torch.cat(parts))
        if policy.bias is not None:
            logits = logits + policy.bias
        out.append((logits / policy.temperature).log_softmax(0)[row["action"]])
    return torch.stack(out)


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "recency", "attention"])
def test_all_parameters_are_reset_to_the_law_that_they_were_drawn_from(pooling, tie_embeddings):
    options = {"context_sizes": (400,), "pooling": pooling, "tie_embeddings": tie_embeddings}
    actor = make_catalogue_actor(400, dim=16, history=3, **options)
    spread = {key: p.detach().std().item() for key, p in actor.named_parameters()}
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.fill_(7.0)
    actor.reset_parameters_recursive()
    for key, parameter in actor.named_parameters():
        assert not (parameter == 7.0).any(), key
        assert parameter.std().item() == pytest.approx(spread[key], rel=0.2), key


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("inputs", INPUTS)
def test_log_prob_equals_the_policy_written_out(
    tie: bool, temperature: float, inputs: dict
) -> None:
    actor = make(tie_embeddings=tie, temperature=temperature, bias=temperature == 1, **inputs)
    td = rows()
    dist = actor.get_dist(td)
    assert isinstance(dist, CatalogueCategorical)
    expected = log_prob_by_hand(catalogue_policy(actor), td)
    torch.testing.assert_close(dist.log_prob(td["action"]).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_actor_writes_the_mode_and_samples_on_demand() -> None:
    actor, td = make(), rows(2000)
    td["observation"] = td["observation"][:1].expand(2000).clone()
    logits = actor.get_dist(td[:1]).logits[0]
    assert (actor(td.clone())["action"] == logits.argmax()).all()
    with set_exploration_type(ExplorationType.RANDOM):
        action = actor(td.clone())["action"]
    assert action.dtype == torch.int64
    frequency = torch.bincount(action, minlength=V) / 2000
    assert (frequency - logits.softmax(0)).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_without_context_the_actor_reads_the_history_only() -> None:
    actor = make(context_sizes=())
    assert actor.in_keys == [("observation", "history")]
    assert actor.get_dist(rows().exclude(("observation", "context"))).batch_shape == (N,)


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_actor_reads_what_it_was_made_for_and_names_what_is_missing(inputs: dict) -> None:
    actor = make(**inputs)
    names = ["history"]
    names += ["context"] if inputs["context_sizes"] else []
    names += ["features"] if inputs["num_features"] else []
    assert actor.in_keys == [("observation", name) for name in names]
    for name in names:
        with pytest.raises(KeyError, match=name):
            actor.get_dist(rows().exclude(("observation", name)))


def test_entries_lie_where_one_says() -> None:
    actor, td = make(context_sizes=(), num_features=2, features_key="x", history_key="h"), rows()
    observation = td["observation"]
    elsewhere = TensorDict({"x": observation["features"], "h": observation["history"]}, [N])
    standard = make(context_sizes=(), num_features=2)
    standard.load_state_dict(actor.state_dict())
    got, expected = (a.get_dist(t).hidden for a, t in ((actor, elsewhere), (standard, td)))
    torch.testing.assert_close(got, expected)


def test_other_units_of_the_features_make_the_same_policy() -> None:
    actor, other, td = make(num_features=2), make(num_features=2), rows(200)
    features = td["observation", "features"]
    moments = features.double().mean(0), features.double().std(0, correction=0)
    catalogue_policy(actor).encoder.scaler.fit_(*moments)
    other.load_state_dict(actor.state_dict())
    catalogue_policy(other).encoder.scaler.fit_(moments[0] * 1000 + 5, moments[1] * 1000)
    moved = td.clone().set(("observation", "features"), features * 1000 + 5)
    got, expected = other.get_dist(moved).logits, actor.get_dist(td).logits
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(other.get_dist(td).logits, expected, atol=1e-1)


def test_unknown_features_are_the_usual_ones() -> None:
    policy = catalogue_policy(make(num_features=2))
    assert torch.equal(policy.usual_features(), MEAN)
    assert not policy.encoder.scaler(policy.usual_features()).any()
    assert catalogue_policy(make()).usual_features() is None


def test_gradients_reach_every_parameter() -> None:
    actor, td = make(tie_embeddings=False, pooling="attention"), rows()
    actor.get_dist(td).log_prob(td["action"]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in actor.parameters())
    # The query's first gradient is zero only if all content looks alike.
    assert all(p.grad.any() for p in actor.parameters())


def test_a_deep_copy_is_independent() -> None:
    actor, td = make(), rows()
    twin = copy.deepcopy(actor)
    before = actor.get_dist(td).log_prob(td["action"])
    torch.testing.assert_close(twin.get_dist(td).log_prob(td["action"]), before)
    with torch.no_grad():
        catalogue_policy(twin).items.mul_(-3)
    torch.testing.assert_close(actor.get_dist(td).log_prob(td["action"]), before)
    assert not torch.allclose(twin.get_dist(td).log_prob(td["action"]), before)


def test_a_state_dict_carries_the_whole_policy(tmp_path) -> None:
    actor, other, td = make(num_features=2), make(num_features=2), rows()
    catalogue_policy(other).encoder.scaler.fit_(torch.zeros(2), torch.ones(2))
    torch.save(actor.state_dict(), tmp_path / "actor.pt")
    other.load_state_dict(torch.load(tmp_path / "actor.pt", weights_only=True))
    torch.testing.assert_close(
        other.get_dist(td).log_prob(td["action"]), actor.get_dist(td).log_prob(td["action"])
    )


@pytest.mark.parametrize("inputs", INPUTS)
def test_functional_parameters_are_the_ones_that_count(inputs: dict) -> None:
    actor, other, td = make(**inputs), make(**inputs), rows()
    theirs = TensorDict.from_module(other)
    with theirs.to_module(actor):
        got = actor.get_dist(td).log_prob(td["action"])
    torch.testing.assert_close(got, other.get_dist(td).log_prob(td["action"]))
    assert not torch.allclose(got, actor.get_dist(td).log_prob(td["action"]))


class NLL(LossModule):
    """The least loss that takes an actor apart into a module and its parameters."""

    actor_network: torch.nn.Module
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def __init__(self, actor) -> None:
        super().__init__()
        self.convert_to_functional(actor, "actor_network", create_target_params=False)

    def forward(self, tensordict):
        with self.actor_network_params.to_module(self.actor_network):
            dist = self.actor_network.get_dist(tensordict)
        return TensorDict({"loss": -dist.log_prob(tensordict["action"]).mean()})


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_loss_module_trains_the_actor_that_it_was_given(inputs: dict) -> None:
    actor, td = make(**inputs), rows()
    loss = NLL(actor)
    before = catalogue_policy(actor).items.clone()
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    expected = -actor.get_dist(td).log_prob(td["action"]).mean()
    value = loss(td)["loss"]
    torch.testing.assert_close(value, expected)
    value.backward()
    optimizer.step()
    assert not torch.equal(catalogue_policy(actor).items, before)
    torch.testing.assert_close(loss(td)["loss"], -actor.get_dist(td).log_prob(td["action"]).mean())
    assert loss(td)["loss"] < value


@pytest.mark.parametrize("inputs", INPUTS)
def test_vmap_over_an_ensemble_equals_one_by_one(inputs: dict) -> None:
    actors, td = [make(**inputs) for _ in range(3)], rows()
    for number, actor in enumerate(actors):
        if inputs["num_features"]:  # each member in units of its own
            catalogue_policy(actor).encoder.scaler.fit_(MEAN, STD * (1 + number))
    stacked = torch.stack([TensorDict.from_module(a) for a in actors])

    def log_prob(params):
        with params.to_module(actors[0]):
            return actors[0].get_dist(td).log_prob(td["action"])

    together = torch.vmap(log_prob)(stacked)
    one_by_one = torch.stack([a.get_dist(td).log_prob(td["action"]) for a in actors])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inputs", INPUTS[1:])
def test_compiled_equals_eager(inputs: dict) -> None:
    actor, td = make(**inputs), rows()

    def log_prob(data):
        return actor.get_dist(data).log_prob(data["action"])

    compiled = torch.compile(log_prob, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td), log_prob(td))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_items must be at least 1, got 0"):
        make_catalogue_actor(0)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        make_catalogue_actor(3, temperature=0.0)
    with pytest.raises(TypeError, match="make_catalogue_actor, got Linear"):
        catalogue_policy(torch.nn.Linear(1, 1))
