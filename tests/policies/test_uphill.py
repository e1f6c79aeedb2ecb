"""Uphill at serving: the tilted Gaussian's mean, and its ends."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributions import Normal
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.retrieval import (
    VectorRows,
    make_retrieval_actor,
    retrieval_policy,
)
from torchrl_drpo.policies.uphill import make_uphill_actor
from torchrl_drpo.rewards import BilinearReward, fit_bilinear_reward

ITEMS, DIM, ROWS = 30, 4, 200


@pytest.fixture(scope="module")
def rows() -> TensorDict:
    g = torch.Generator().manual_seed(0)
    observation = {
        "history": torch.randint(-1, ITEMS, (ROWS, 2), generator=g),
        "context": torch.randint(3, (ROWS, 1), generator=g),
    }
    action = torch.randint(ITEMS, (ROWS,), generator=g)
    return TensorDict({"observation": observation, "action": action}, [ROWS])


@pytest.fixture(scope="module")
def actor(rows: TensorDict) -> ProbabilisticActor:
    torch.manual_seed(1)
    vectors = torch.randn(ITEMS, DIM)
    actor = make_retrieval_actor(
        ITEMS, DIM, item_vectors=vectors, history=2, context_sizes=(3,), hidden=(8,)
    )
    retrieval_policy(actor).calibrate([rows])
    return actor


@pytest.fixture(scope="module")
def critics(actor: ProbabilisticActor, rows: TensorDict) -> list[BilinearReward]:
    log = VectorRows(retrieval_policy(actor))(rows.clone())
    reward = torch.rand(ROWS, generator=torch.Generator().manual_seed(2))
    half = ROWS // 2
    parts = (slice(None, half), slice(half, None))
    return [
        fit_bilinear_reward(log["state"][p], log["action"][p], reward[p], landmarks=7)
        for p in parts
    ]


def mean_and_slope(
    actor: ProbabilisticActor, critics: list[BilinearReward], rows: TensorDict
) -> tuple[Tensor, Tensor]:
    policy = retrieval_policy(actor)
    state = policy.states(**policy.observed(rows))
    slopes = [critic.slope(state) for critic in critics]
    return policy.head.mean(state), (slopes[0] + slopes[1]) / 2


def test_the_mean_moves_by_the_critics_mean_slope(actor, critics, rows) -> None:
    mean, slope = mean_and_slope(actor, critics, rows)
    dist = make_uphill_actor(actor, critics, typical=0.2, step=0.5).get_dist(rows)
    moved = mean + 0.5 * DIM**0.5 / 0.2 * slope
    cosine = torch.cosine_similarity(
        moved.unsqueeze(1), retrieval_policy(actor).items.unsqueeze(0), dim=-1
    )
    torch.testing.assert_close(dist.probs, torch.softmax(cosine / 0.1, -1), rtol=1e-4, atol=1e-6)
    assert not torch.equal(dist.mode, actor.get_dist(rows).mode)


def test_that_mean_is_the_tilted_gaussians(actor, critics, rows) -> None:
    """N(mu, s^2) exp(u'a / tau) over a grid of actions, normalised by sums, has that mean."""
    mean, slope = (part[0, :1].double() for part in mean_and_slope(actor, critics, rows))
    step, typical, sigma = 0.3, slope.norm().item(), 0.7
    tau = sigma**2 * typical / (step * DIM**0.5)  # the step's, at this sigma
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.double) + mean
    weight = (Normal(mean, sigma).log_prob(grid) + slope * grid / tau).softmax(0)
    expected = (weight * grid).sum()
    moved = mean + step * DIM**0.5 / typical * slope
    torch.testing.assert_close(moved.squeeze(), expected)


def test_no_step_is_the_policy_and_a_long_one_the_critics_best(actor, critics, rows) -> None:
    uphill = make_uphill_actor(actor, critics, typical=0.2, step=0.0)
    assert torch.equal(uphill.get_dist(rows).probs, actor.get_dist(rows).probs)
    retrieval_policy(uphill).uphill_step = 1e6
    _, slope = mean_and_slope(actor, critics, rows)
    policy = retrieval_policy(actor)
    assert torch.equal(uphill.get_dist(rows).mode, (slope @ policy.items.T).argmax(-1))
    # The state alone is worth the same whatever is served: the critics' best item is the slope's.
    state = policy.states(**policy.observed(rows))
    every = [torch.stack([c(state, v.expand(ROWS, -1)) for v in policy.items], -1) for c in critics]
    assert torch.equal(uphill.get_dist(rows).mode, (every[0] + every[1]).argmax(-1))


def test_index_and_lists_serve_it_as_any_policy(actor, critics, rows) -> None:
    uphill = make_uphill_actor(actor, critics, typical=0.2)
    policy, dist = retrieval_policy(uphill), uphill.get_dist(rows)
    found = ItemIndex.from_policy(policy, list(range(ITEMS))).top_k(dist.hidden, 3)[1]
    assert torch.equal(found, dist.topk(3).indices)
    observed = policy.observed(rows)
    items, _ = PolicyLists(policy, 3)(*observed.values())
    assert torch.equal(items, found)
    saved = uphill.state_dict()
    empty = [BilinearReward.empty(7, policy.state.width, DIM) for _ in range(2)]
    fresh = make_retrieval_actor(ITEMS, DIM, history=2, context_sizes=(3,), hidden=(8,))
    other = make_uphill_actor(fresh, empty, typical=1.0)
    other.load_state_dict(saved)
    torch.testing.assert_close(other.get_dist(rows).probs, dist.probs)


def test_what_is_trained_is_shared(actor, critics) -> None:
    inside = retrieval_policy(make_uphill_actor(actor, critics[0], typical=0.2))
    assert inside.head is retrieval_policy(actor).head
    assert inside.items is retrieval_policy(actor).items
    assert len(inside.critics) == 1


@pytest.mark.parametrize("step", [-0.1, float("inf"), float("nan")])
def test_numbers_out_of_range_are_refused(actor, critics, step: float) -> None:
    with pytest.raises(ValueError, match=f"uphill_step must be .* at least 0, got {step}"):
        make_uphill_actor(actor, critics, typical=0.2, step=step)
    with pytest.raises(ValueError, match="typical"):
        make_uphill_actor(actor, critics, typical=0.0)
    with pytest.raises(ValueError, match="at least one critic, got none"):
        make_uphill_actor(actor, [], typical=0.2)
    with pytest.raises(TypeError, match="make_retrieval_actor"):
        make_uphill_actor(torch.nn.Linear(1, 1), critics, typical=0.2)


def test_a_mean_that_moves_is_not_moved_again(actor, critics) -> None:
    """The first critics would be dropped without a word."""
    with pytest.raises(ValueError, match="moved by critics already"):
        make_uphill_actor(make_uphill_actor(actor, critics, typical=0.2), critics, typical=0.2)
