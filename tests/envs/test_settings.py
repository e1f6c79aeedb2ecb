from __future__ import annotations

import dataclasses

import pytest

from torchrl_drpo.envs import RecSimSetting, Scenario, SessionSetting


def test_presets_are_the_papers_numbers():
    table = RecSimSetting.preset("table")
    assert dataclasses.asdict(table) == {
        "state_dim": 10,
        "action_dim": 128,
        "num_items": 5000,
        "num_clusters": 10,
        "cluster_std": 1.2,
        "interest_sharpness": 2.0,
        "delta": 0.5,
        "reward_noise": 0.13,
        "expert_noise": 0.3,
        "expert_neighbours": 10,
        "popularity_draws": 8,
        "zipf_exponent": 1.0,
    }
    changed = {"delta": 0.35, "cluster_std": 0.6, "interest_sharpness": 4.0, "popularity_draws": 16}
    assert RecSimSetting.preset("collapse") == dataclasses.replace(table, **changed)
    assert Scenario.preset("medium") == Scenario(expert=0.1, popularity=0.6, random=0.3)
    assert Scenario.preset("extreme") == Scenario(expert=0.05, popularity=0.05, random=0.9)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (RecSimSetting, {"num_items": 0}, "num_items must be a finite number above 0, got 0"),
        (RecSimSetting, {"delta": -0.5}, "delta must be"),
        (RecSimSetting, {"reward_noise": -1.0}, "reward_noise must be a finite number of at least"),
        (RecSimSetting, {"cluster_std": float("nan")}, "cluster_std must be"),
        (RecSimSetting, {"num_items": 5}, r"expert_neighbours must lie in \[1, 5\]"),
        (Scenario, {"expert": 0.5, "popularity": 0.5, "random": 0.5}, r"sum to 1, got .* = 1.5"),
        (Scenario, {"expert": -0.5, "popularity": 0.5, "random": 1.0}, "expert must be"),
        (SessionSetting, {"drift": 1.5}, r"drift must lie in \[0, 1\], got 1.5"),
        (SessionSetting, {"leave_probability": 0.0}, "leave_probability must lie in"),
        (SessionSetting, {"satisfaction": 1.0}, r"satisfaction must lie in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_numbers_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_unknown_presets_say_what_is_known():
    with pytest.raises(ValueError, match="unknown setting 'tabel'; expected 'table' or 'collapse'"):
        RecSimSetting.preset("tabel")
    with pytest.raises(ValueError, match="unknown scenario 'hard'; expected 'medium' or 'extreme'"):
        Scenario.preset("hard")
