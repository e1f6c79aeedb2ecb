"""Behaviour cloning: closed forms of maximum likelihood, and when it stops."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import make_catalogue_actor
from torchrl_drpo.evaluation.off_policy import Cloning, make_logistic_actor


def make_rows(count: int, policy: torch.Tensor) -> TensorDict:
    """States that are one of S unit vectors, actions of a policy ``[S, A]``."""
    state = torch.arange(count) % len(policy)
    action = torch.multinomial(policy[state], 1)[:, 0]
    return TensorDict({"observation": torch.eye(len(policy))[state], "action": action}, [count])


def logistic(rows: TensorDict, actions: int, **options) -> Cloning:
    return Cloning(lambda: make_logistic_actor(actions, rows["observation"]), **options)


def test_at_states_that_are_unit_vectors_it_finds_their_frequencies() -> None:
    policy = torch.softmax(torch.randn(3, 5), -1)
    rows = make_rows(12_000, policy)
    fitted = logistic(rows, 5, patience=20, weight_decay=0.0)(rows)
    probs = fitted.get_dist(rows[:3]).probs
    count = torch.zeros(3, 5)
    count.index_put_((rows["observation"].argmax(-1), rows["action"]), torch.ones(12_000), True)
    share = count / count.sum(-1, keepdim=True)  # the maximum of the likelihood
    torch.testing.assert_close(probs, share, rtol=0, atol=0.03)
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    assert not fitted.training


def test_without_hidden_layers_it_is_logistic_regression() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6_000, 2, generator=g)
    truth = x.double() @ torch.randn(2, 3, generator=g).double()
    action = torch.multinomial(torch.softmax(truth, -1), 1, generator=g)[:, 0]
    rows = TensorDict({"observation": 5 + 100 * x, "action": action}, [6_000])
    probs = logistic(rows, 3, patience=20, weight_decay=0.0)(rows).get_dist(rows).probs
    # Newton's method on the same rows, in float64.
    weight = torch.zeros(3, 3).double().requires_grad_()
    design = torch.cat([x.double(), torch.ones(6_000, 1).double()], -1)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(design @ weight, action)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = torch.softmax(design @ weight.detach(), -1).float()
    assert (probs - best).abs().mean() < 0.01


def test_hidden_layers_see_what_no_line_separates() -> None:
    x = 2 * torch.randint(2, (4_000, 2)).float() - 1
    action = ((x.prod(-1) > 0) ^ (torch.rand(4_000) < 0.1)).long()
    rows = TensorDict({"observation": x, "action": action}, [4_000])
    deep = Cloning(lambda: make_logistic_actor(2, x, hidden=(16,)), steps=600)(rows)
    probs = deep.get_dist(TensorDict({"observation": torch.tensor([[1.0, 1], [1, -1]])}, [2])).probs
    torch.testing.assert_close(probs[:, 1], torch.tensor([0.9, 0.1]), rtol=0, atol=0.05)
    flat = logistic(rows, 2, steps=600)(rows).get_dist(rows[:4]).probs
    assert (flat - 0.5).abs().max() < 0.1


def test_what_held_out_rows_do_not_confirm_is_not_learned() -> None:
    noise = torch.randn(300, 40)  # 40 features of chance and 300 rows
    rows = TensorDict({"observation": noise, "action": torch.randint(10, (300,))}, [300])
    held = 3_000
    fresh = TensorDict({"observation": torch.randn(held, 40)}, [held])
    fresh["action"] = torch.randint(10, (held,))

    def likelihood(**options) -> float:
        fitted = logistic(rows, 10, **options)(rows)
        return fitted.get_dist(fresh).log_prob(fresh["action"]).mean().item()

    uniform = -torch.tensor(10.0).log().item()
    assert likelihood() > uniform - 0.1
    assert likelihood(patience=10_000) > uniform - 0.1  # the best of all looks is kept
    assert likelihood(check_every=400, steps=400, patience=1) == pytest.approx(uniform, abs=1e-4)


def test_a_user_is_held_out_as_a_whole() -> None:
    # Users with features and items of chance: known for themselves, impossible to know of others.
    user = torch.arange(40).repeat_interleave(20)
    features, item = torch.randn(40, 60), torch.randint(8, (40,))
    log = TensorDict({"observation": features[user], "action": item[user], "user": user}, [800])

    def likelihood(group_key: str | None) -> float:
        fitted = logistic(log, 8, steps=300, group_key=group_key)(log)
        return fitted.get_dist(log).log_prob(log["action"]).mean().item()

    assert likelihood(None) > -0.2
    assert likelihood("user") < -1.0  # the uniform distribution has -2.1


def test_it_is_seeded_and_leaves_the_random_state_alone() -> None:
    rows = make_rows(600, torch.softmax(torch.randn(3, 5), -1))
    state = torch.get_rng_state()
    found = [
        logistic(rows, 5, steps=50, seed=seed)(rows).get_dist(rows).probs for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_it_fits_an_actor_of_histories() -> None:
    log = TensorDict({"action": torch.randint(3, (2_000,))}, [2_000])
    last = (log["action"] + (torch.rand(2_000) < 0.1).long()) % 3  # nine in ten repeat
    log["observation", "history"] = last.unsqueeze(-1)
    fitted = Cloning(lambda: make_catalogue_actor(3, dim=8, history=1), steps=300)(log)
    likely = fitted.get_dist(log).log_prob(log["action"]).mean().item()
    entropy = 0.9 * torch.tensor(0.9).log() + 0.1 * torch.tensor(0.1).log()
    assert likely == pytest.approx(entropy.item(), abs=0.05)


def test_states_that_are_not_finite_are_named() -> None:
    rows = make_rows(600, torch.softmax(torch.randn(3, 5), -1))
    fit = logistic(rows.clone(), 5)
    rows["observation"][::2] = torch.nan
    with pytest.raises(ValueError, match="finite state"):
        fit(rows)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"steps": 0}, "steps must be at least 1"), ({"held_out": 0.6}, "held_out must lie in")],
)
def test_settings_are_checked(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Cloning(lambda: None, **options)
