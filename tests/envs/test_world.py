from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from torchrl_drpo.envs import RecSimSetting, SessionSetting
from torchrl_drpo.envs.world import RecSimWorld, advance

TABLE = RecSimSetting.preset("table")
SMALL = dataclasses.replace(TABLE, num_items=200, action_dim=16)


def test_items_have_norm_sqrt_d_and_hang_around_the_centres():
    world = RecSimWorld(TABLE, seed=0)
    items = world.items.double()
    np.testing.assert_allclose(items.norm(dim=-1).numpy(), np.sqrt(128), rtol=1e-6)
    torch.testing.assert_close(world.centres.norm(dim=-1), torch.ones(10))
    # Within a cluster the noise has norm 1.2: the cosine with the own centre is near
    # 1 / sqrt(1 + 1.44) = .64. The mean of the items has norm .64 / sqrt(10) = .2; without it
    # the cosine is (.64 - .064) / sqrt(1 - .04) = .59.
    cosine = (items / np.sqrt(128)) @ world.centres.double().T
    assert cosine.amax(-1).mean().item() == pytest.approx(0.59, abs=0.02)
    sizes = cosine.argmax(-1).bincount(minlength=10)
    assert sizes.min() > 350
    assert sizes.max() < 650


def test_popularity_is_zipf_over_a_random_ranking():
    world = RecSimWorld(TABLE, seed=0)
    mass = world.popularity.sort(descending=True).values.numpy()
    np.testing.assert_allclose(mass, (1 / np.arange(1, 5001)) / (1 / np.arange(1, 5001)).sum())
    top = world.popularity.argsort(descending=True)[:500].double()
    assert top.mean().item() == pytest.approx(2500, abs=300)  # not the first items


def test_interest_is_the_formula_in_float64():
    world, state = RecSimWorld(TABLE, seed=0), torch.randn(3, 4, 10)
    logits = 2 * state.double().numpy() @ world.state_map.double().numpy().T / np.sqrt(10)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = weights @ world.centres.double().numpy()
    expected = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)
    np.testing.assert_allclose(world.interest(state).numpy(), expected, atol=1e-6)


def test_rewards_are_the_formula_clipped_after_noise():
    world = RecSimWorld(TABLE, seed=0)
    interest, item = world.interest(torch.randn(2000, 10)), torch.randint(5000, (2000,))
    cosine = torch.cosine_similarity(world.items[item].double(), interest.double(), dim=-1)
    expected = torch.exp(-(1 - cosine) / (2 * 0.5**2))
    latent = world.latent_reward(interest, item)
    torch.testing.assert_close(latent.double(), expected, rtol=1e-5, atol=0)
    # Far from the clips the noise is N(0, .13^2); at zero half of it is cut off.
    level = torch.tensor([0.5, 0.0]).expand(20_000, 2)
    seen = world.observed_reward(level, torch.Generator().manual_seed(0))
    assert seen[:, 0].std().item() == pytest.approx(0.13, rel=0.03)
    assert seen[:, 0].mean().item() == pytest.approx(0.5, abs=0.005)
    assert (seen[:, 1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert 0 <= seen.min() <= seen.max() <= 1


def test_retrieval_is_by_cosine():
    world, action = RecSimWorld(SMALL, seed=0), 7 * torch.randn(3, 5, 16)
    cosine = torch.cosine_similarity(action.unsqueeze(-2), world.items, dim=-1)
    assert torch.equal(world.retrieve(action), cosine.argmax(-1))


def test_one_seed_is_one_world_and_noise_levels_do_not_change_it():
    world = RecSimWorld(SMALL, seed=4)
    noisy = RecSimWorld(dataclasses.replace(SMALL, reward_noise=1.0, expert_noise=0.5), seed=4)
    for name, buffer in world.named_buffers():
        assert torch.equal(buffer, noisy.get_buffer(name)), name
    assert not torch.equal(world.items, RecSimWorld(SMALL, seed=5).items)


def test_a_world_is_saved_and_loaded_as_tensors(tmp_path):
    world, other = RecSimWorld(SMALL, seed=4), RecSimWorld(SMALL, seed=5)
    torch.save(world.state_dict(), tmp_path / "world.pt")
    other.load_state_dict(torch.load(tmp_path / "world.pt", weights_only=True))
    action = torch.randn(9, 16)
    assert torch.equal(other.retrieve(action), world.retrieve(action))


def test_drift_keeps_the_law_of_states_and_correlates_by_its_share():
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(50_000, 2, generator=generator)
    session = SessionSetting(drift=0.36)
    after, _ = advance(state, torch.zeros(50_000), session, generator)
    assert after.mean().abs() < 0.02
    assert after.std().item() == pytest.approx(1.0, abs=0.01)
    assert torch.corrcoef(torch.stack([state[:, 0], after[:, 0]]))[0, 1].item() == pytest.approx(
        0.8, abs=0.01
    )
    still, _ = advance(state, torch.zeros(50_000), SessionSetting(drift=0.0), generator)
    assert torch.equal(still, state)


def test_leaving_depends_on_the_reward_as_documented():
    session = SessionSetting(leave_probability=0.4, satisfaction=0.5)
    generator = torch.Generator().manual_seed(0)
    reward = torch.tensor([0.0, 0.5, 1.0]).repeat(40_000)
    _, left = advance(torch.zeros(120_000, 1), reward, session, generator)
    rates = left.view(-1, 3).float().mean(0).numpy()
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.2], atol=0.01)
