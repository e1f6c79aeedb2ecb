"""A Gaussian over item vectors and the retrieval that serves it are one policy."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import BehaviorCloningLoss, CatalogueCategorical, MIPSDecoder
from torchrl_drpo.policies.retrieval import (
    VectorRows,
    gaussian_actor,
    make_retrieval_actor,
    retrieval_policy,
)

V, D = 50, 6


def make_rows(n: int = 40, *, context: bool = True, features: bool = True) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    observation = {"history": torch.randint(-1, V, (n, 4), generator=g)}
    if context:
        observation["context"] = torch.randint(-1, 3, (n, 2), generator=g)
    if features:
        observation["features"] = torch.randn(n, 5, generator=g)
    action = torch.randint(0, V, (n,), generator=g)
    return TensorDict({"observation": TensorDict(observation, [n]), "action": action}, [n])


def make_actor(*, context: bool = True, features: bool = True, **options):
    torch.manual_seed(0)
    options.setdefault("item_vectors", torch.randn(V, D))
    return make_retrieval_actor(
        V,
        D,
        history=4,
        context_sizes=(3, 3) if context else (),
        num_features=5 if features else 0,
        hidden=(16,),
        **options,
    )


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("features", [True, False])
def test_the_item_served_is_the_one_nearest_to_the_mean(context: bool, features: bool) -> None:
    torch.manual_seed(3)
    vectors = torch.randn(V, D) * torch.rand(V, 1)
    actor = make_actor(context=context, features=features, item_vectors=vectors)
    rows = make_rows(context=context, features=features)
    policy = retrieval_policy(actor)
    learned = VectorRows(policy)(rows.clone())
    mean = gaussian_actor(policy).get_dist(learned).mean
    _, nearest = MIPSDecoder(vectors, metric="cosine").decode(mean)
    assert torch.equal(actor(rows.clone())["action"], nearest.squeeze(-1))
    dist = actor.get_dist(rows.clone())
    assert isinstance(dist, CatalogueCategorical)
    cosine = torch.cosine_similarity(mean.unsqueeze(1), vectors, dim=-1)
    expected = (cosine / 0.1).log_softmax(-1)
    torch.testing.assert_close(dist.logits, expected, atol=1e-4, rtol=1e-4)


def test_what_a_loss_teaches_the_gaussian_is_served_at_once() -> None:
    actor = make_actor()
    policy = retrieval_policy(actor)
    rows = make_rows(200)
    rows["action"] = rows["observation", "context"][:, 0] + 1  # items 0 to 3, by the context
    vectors = VectorRows(policy)
    loss = BehaviorCloningLoss(gaussian_actor(policy))
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(150):
        loss(vectors(rows.clone()))["loss_actor"].backward()
        optimizer.step()
        optimizer.zero_grad()
    served = actor(rows.clone())["action"]
    assert (served == rows["action"]).float().mean() > 0.95


def test_vector_rows_leave_the_log_s_own_entries() -> None:
    rows = make_rows()
    item = rows["action"].clone()
    policy = retrieval_policy(make_actor())
    out = VectorRows(policy)(rows)
    assert torch.equal(out["item"], item)
    torch.testing.assert_close(out["action"], policy.items[item] * D**0.5)
    torch.testing.assert_close(out["action"].norm(dim=-1), torch.full((40,), D**0.5))
    assert not out["action"].requires_grad
    assert not out["state"].requires_grad
    assert out["state"].shape == (40, policy.state.width)


def test_only_directions_of_item_vectors_count() -> None:
    torch.manual_seed(5)
    vectors = torch.randn(V, D)
    lengths = torch.rand(V, 1) + 0.1
    rows = make_rows()
    torch.manual_seed(0)
    one = make_retrieval_actor(V, D, item_vectors=vectors, history=4)
    torch.manual_seed(0)
    other = make_retrieval_actor(V, D, item_vectors=vectors * lengths, history=4)
    torch.testing.assert_close(one.get_dist(rows).logits, other.get_dist(rows).logits)


def test_a_state_dict_holds_the_policy() -> None:
    actor, rows = make_actor(), make_rows()
    policy = retrieval_policy(actor)
    policy.calibrate(rows.split(15))
    assert policy.state.scale.min() > 0
    assert not torch.equal(policy.state.scale, torch.ones(policy.state.width))
    torch.manual_seed(9)
    other = make_actor(item_vectors=None)
    assert not torch.equal(other.get_dist(rows).logits, actor.get_dist(rows).logits)
    retrieval_policy(other).load_state_dict(policy.state_dict())
    assert torch.equal(other.get_dist(rows).logits, actor.get_dist(rows).logits)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.randn(V, D + 1), r"shape \[50, 6\], got torch.float32 of shape \(50, 7\)"),
        (torch.zeros(V, D, dtype=torch.long), "floating point of shape"),
        (torch.full((V, D), torch.nan), r"item 0 holds \[nan.*50 such items"),
    ],
)
def test_item_vectors_that_do_not_fit_are_named(vectors: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_retrieval_actor(V, D, item_vectors=vectors)


def test_other_actors_are_refused() -> None:
    with pytest.raises(TypeError, match="expected an actor of make_retrieval_actor"):
        retrieval_policy(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="temperature"):
        make_retrieval_actor(V, D, temperature=0.0)


def test_a_policy_without_histories_needs_none() -> None:
    torch.manual_seed(0)
    actor = make_retrieval_actor(V, D, item_vectors=torch.randn(V, D), history=0, num_features=5)
    policy = retrieval_policy(actor)
    rows = make_rows(context=False)
    bare = TensorDict({"observation": {"features": rows["observation", "features"]}}, [40])
    bare["action"] = rows["action"]
    assert policy.inputs == ("features",)
    policy.calibrate([bare])
    assert torch.equal(actor.get_dist(bare).logits, actor.get_dist(rows).logits)
    assert torch.equal(VectorRows(policy)(bare)["state"], VectorRows(policy)(rows)["state"])
    with pytest.raises(ValueError, match="needs a history, a context or features"):
        policy.states()


def test_a_missing_entry_is_named() -> None:
    policy, rows = retrieval_policy(make_actor()), make_rows(context=False)
    with pytest.raises(KeyError, match=r"the policy reads .*context.*the rows have"):
        VectorRows(policy)(rows)
