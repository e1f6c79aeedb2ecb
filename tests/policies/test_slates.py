"""A policy over slates under every objective by name, copied, saved and served."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_drpo import DRPOLoss, ECPOLoss, PlackettLuce, make_slate_actor
from torchrl_drpo.data import slate_rows
from torchrl_drpo.objectives._remoteness import remoteness_and_score
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import OBJECTIVES
from torchrl_drpo.policies import catalogue_policy

V, K, SLATES = 12, 3, 400
GOOD = torch.arange(4)  # items that earn something
#: Those that a slate can follow: what conditions or tilts a policy is no loss of its own.
NAMES = [
    name
    for name, found in OBJECTIVES.items()
    if not found.follows_model and found.condition is None
]


def log(seed: int = 0) -> TensorDict:
    """Random slates; the item at a place earns its worth, more in the first place."""
    draw = torch.Generator().manual_seed(seed)
    lists = torch.stack([torch.randperm(V, generator=draw)[:K] for _ in range(SLATES)])
    worth = torch.isin(lists, GOOD).float() * torch.tensor([1.0, 0.7, 0.5])
    rows = {
        "action": lists.flatten(),
        "slate": torch.arange(SLATES).repeat_interleave(K),
        "position": torch.arange(K).repeat(SLATES),
        "observation": {"history": torch.full((SLATES * K, 2), -1)},
        "next": {"reward": worth.reshape(-1, 1)},
    }
    return TensorDict(rows, [SLATES * K])


def actor(places: str = "all"):
    torch.manual_seed(0)
    return make_slate_actor(V, slate=K, places=places, dim=8, history=2, hidden=(8,))


def trained(loss, rows: TensorDict, steps: int = 60) -> Tensor:
    optimiser = torch.optim.Adam(loss.parameters(), lr=3e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(rows)["loss_actor"].backward()
        optimiser.step()
    return loss(rows)["loss_actor"]


@pytest.mark.parametrize("per", ["slate", "place"])
@pytest.mark.parametrize("name", NAMES)
def test_every_objective_trains_it(name: str, per: str) -> None:
    policy = actor("all" if per == "slate" else "last")
    rows = slate_rows(log(), per=per)
    loss = make_objective(name, policy)
    assert trained(loss, rows).isfinite()
    best = policy.get_dist(rows[:1]).mode[0]
    assert len(best.unique()) == K
    if name not in ("bc", "gbpo"):  # which imitate random slates, or hardly move a far one
        assert torch.isin(best, GOOD).float().mean() >= 2 / 3


def test_log_prob_is_that_of_the_policy_s_scores() -> None:
    policy, rows = actor(), slate_rows(log())[:50]
    logits = catalogue_policy(policy).distribution(policy(rows.clone())["hidden"]).logits
    by_hand = PlackettLuce(logits.double(), k=K).log_prob(rows["action"])
    slates = policy.get_dist(rows)
    ours = slates.log_prob(rows["action"]).double()
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-5)
    last = actor("last").get_dist(rows).log_prob(rows["action"])
    torch.testing.assert_close(last, slates.place_log_prob(rows["action"])[:, -1])


def test_copies_own_their_scores_and_states_are_a_catalogue_policy_s() -> None:
    policy, rows = actor(), slate_rows(log())[:5]
    other = copy.deepcopy(policy)
    with torch.no_grad():
        catalogue_policy(other).bias += torch.arange(float(V))
    assert torch.equal(other.get_dist(rows).mode[0], torch.tensor([11, 10, 9]))
    before = policy.get_dist(rows).log_prob(rows["action"])
    assert not torch.equal(before, other.get_dist(rows).log_prob(rows["action"]))
    policy.load_state_dict(other.state_dict())
    assert torch.equal(policy.get_dist(rows).mode, other.get_dist(rows).mode)
    with set_exploration_type(ExplorationType.RANDOM):
        drawn = policy(rows.clone())["action"]
    assert drawn.shape == (5, K)
    assert torch.equal(policy(rows.clone())["action"], policy.get_dist(rows).mode)


def test_remoteness_is_the_mean_over_the_places_that_are_there() -> None:
    slates = PlackettLuce(torch.randn(4, 6), k=3)
    value = torch.tensor([[0, 1, 2], [5, 4, -1], [3, -1, -1], [2, 0, 5]])
    log_prob = slates.log_prob(value)
    distance, score = remoteness_and_score(slates, value, log_prob, torch.Size([4]))
    places = slates.place_log_prob(value)
    mean = torch.stack([-places[n, :count].mean() for n, count in enumerate((3, 2, 1, 3))])
    torch.testing.assert_close(distance, mean)
    torch.testing.assert_close(score, 1 - log_prob.exp())


def test_the_geometric_mean_of_ratios_counts_the_places_that_are_there() -> None:
    policy, rows = actor(), slate_rows(log())[:40]
    rows["action"][::2, 2] = -1
    rows["behavior_log_prob"] = -torch.rand(40) * 9
    loss = ECPOLoss(policy, ratio="geometric_mean", behavior="logged", normalize=False)
    log_prob = policy.get_dist(rows).log_prob(rows["action"])
    count = torch.tensor([2.0, 3.0] * 20)
    signed = rows["next", "reward"][:, 0] - rows["next", "reward"].mean()
    old = (rows["behavior_log_prob"] / count).exp()
    mean = (log_prob / count).exp()
    ratio = mean / torch.where(signed < 0, torch.maximum(mean.detach() / 1.3, old), old)
    expected = -torch.minimum(ratio * signed, ratio.clamp(0.8, 1.2) * signed).mean()
    torch.testing.assert_close(loss(rows)["loss_actor"], expected)


def test_rows_that_are_masked_out_cost_no_nan() -> None:
    policy = actor()
    rows = slate_rows(log())[:40].reshape(10, 4)
    rows["mask"] = torch.rand(10, 4) > 0.3
    for level in ("step", "trajectory"):
        loss = DRPOLoss(policy, kappa=0.5, level=level)
        out = loss(rows)["loss_actor"]
        gradients = torch.autograd.grad(out, list(loss.parameters()))
        assert out.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_what_is_no_slate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slate must lie in \[1, 5\] \(the catalogue\), got 6"):
        make_slate_actor(5, slate=6)
    with pytest.raises(ValueError, match="places must be 'all' or 'last', got 'first'"):
        make_slate_actor(5, slate=2, places="first")
    with pytest.raises(ValueError, match="leave mesh out"):
        make_slate_actor(5, slate=2, mesh=object())
