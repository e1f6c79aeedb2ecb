"""The training loop: which rows are drawn, what is scored, what is averaged."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from tests.reproduction.simulator.small_worlds import (
    SEEDS,
    SETUP,
    batch_of,
    make_policies,
    make_worlds,
    rows_of,
)
from torchrl_drpo.envs.streams import stream
from torchrl_drpo.reproduction.simulator import training
from torchrl_drpo.reproduction.simulator.rules import Imitation, Signed, TopFraction
from torchrl_drpo.reproduction.simulator.runs import METHODS, method_cell, run_method
from torchrl_drpo.reproduction.simulator.training import Run, Schedule, train
from torchrl_drpo.reproduction.target import Options


class Listens(Signed):
    """Keeps the rows that it was handed, and reports the step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        assert step == len(self.seen)
        self.seen.append(batch["row"])
        return super().weigh(batch, step)

    def report(self) -> dict[str, Tensor]:
        return {"step": torch.tensor([1.0, 3.0]) * len(self.seen)}


@pytest.fixture(scope="module")
def worlds():
    return make_worlds()


# -- rows ---------------------------------------------------------------------------------------


def test_rows_come_from_each_seeds_own_stream_without_a_seam(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "_DRAWN", 4)
    rule = Listens()
    train(make_worlds(), rule, Schedule(steps=10, batch_size=7, evaluations=1))
    for number, seed in enumerate(SEEDS):
        generator = stream(seed, "batches")
        blocks = [torch.randint(300, (4, 7), generator=generator) for _ in range(3)]
        expected = torch.cat(blocks)[:10]
        assert torch.equal(torch.stack([row[number] for row in rule.seen]), expected)


def test_all_rules_see_the_same_rows_and_their_own_columns(worlds):
    rows = training._Rows(worlds, 40)
    drawn = rows.draw(0)
    row = drawn["row"]
    assert set(drawn.keys()) == {"row", "reward", "latent_reward"}
    for number in range(2):
        for name in ("reward", "latent_reward"):
            assert torch.equal(drawn[name][number], worlds.log[name][number][row[number]])
    state, action = worlds.read(row)
    assert torch.equal(state[1, 5], worlds.log["observation"][1, row[1, 5]])
    assert torch.equal(action[0, 5], worlds.log["action"][0, row[0, 5]])


# -- packing ------------------------------------------------------------------------------------


def test_packing_drops_what_no_seed_keeps_and_moves_no_gradient(worlds):
    row = rows_of(worlds)
    batch = batch_of(worlds, row)
    rule = TopFraction(kappa=0.2, weighting="uniform")
    rule.prepare(worlds, make_policies(worlds), 1)
    weight = rule.weigh(batch, 0)
    weight[1, weight[1].nonzero()[:3]] = 0.0  # a seed that keeps fewer
    packed, less = training._packed(weight, batch)
    assert packed.shape == (2, 8)
    assert (packed[1] == 0).sum() == 3
    gradients = []
    for w, b in ((weight, batch), (packed, less)):
        policies = make_policies(worlds)
        policies.backward(policies.score(*worlds.read(b["row"])), w)
        gradients.append({name: p.grad for name, p in policies.parameters.items()})
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-6)
    full = torch.ones(2, 40)
    assert training._packed(full, batch)[0] is full  # not worth the sorting
    assert training._packed(torch.zeros(2, 40), batch)[0].shape == (2, 1)


# -- what is averaged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "evaluations", "at", "late"),
    [
        (10, 10, list(range(1, 11)), [9, 10]),
        (10, 5, [2, 4, 6, 8, 10], [10]),
        (7, 3, [2, 4, 6, 7], [6, 7]),  # the last step is always looked at
        (3, 20, [1, 2, 3], [3]),
    ],
)
def test_the_last_fifth_is_averaged(
    worlds, steps: int, evaluations: int, at: list[int], late: list[int]
):
    run = train(worlds, Listens(), Schedule(steps, 16, 3e-4, evaluations))
    assert [step for step, _ in run.curves["retrieved_reward"]] == at
    mean = sum(late) / len(late)
    assert run.metrics["step"] == pytest.approx([mean, 3 * mean])
    assert run.curves["step"] == [(step, 2.0 * step) for step in at]
    assert set(run.metrics) == {
        "retrieved_reward",
        "raw_reward",
        "action_distance",
        "log_sigma",
        "step",
    }


def test_what_is_recorded_last_is_what_the_policies_are_worth(worlds):
    run = train(worlds, Signed(), Schedule(steps=5, batch_size=16, evaluations=1))
    found = worlds.evaluate(run.policies.mean(worlds.users))
    for name, values in found.items():
        assert run.metrics[name] == values
    log_sigma = run.policies.parameters["log_std"].detach().mean((1, 2))
    torch.testing.assert_close(torch.tensor(run.metrics["log_sigma"]), log_sigma)


def test_a_run_is_repeated_to_the_bit(worlds):
    runs = [train(make_worlds(), Imitation(), Schedule(6, 16, 1e-3, 2)) for _ in range(2)]
    assert runs[0].to_json() == runs[1].to_json()


def test_numbers_that_are_none_become_null():
    run = Run({"a": [1.23456789, math.nan, math.inf]}, {"a": [(5, math.nan), (10, -math.inf)]})
    found = run.to_json()
    assert found == {
        "metrics": {"a": [1.234568, None, None]},
        "curves": {"a": [(5, None), (10, None)]},
    }
    json.dumps(found, allow_nan=False)


def test_a_policy_that_is_lost_costs_its_own_seed_only(worlds):
    class Breaks(Imitation):
        def weigh(self, batch: TensorDict, step: int) -> Tensor:
            weight = super().weigh(batch, step)
            weight[0] = math.nan
            return weight

    found = train(worlds, Breaks(), Schedule(3, 16, 1e-3, 3)).to_json()["metrics"]
    assert found["retrieved_reward"][0] is None
    assert 0 < found["retrieved_reward"][1] <= 1


# -- cells --------------------------------------------------------------------------------------


def test_a_cell_is_a_run_of_its_settings():
    schedule = {"steps": 4, "batch_size": 16, "evaluations": 2}
    settings: dict[str, Any] = {
        "method": METHODS["DRPO"],
        "setup": SETUP,
        "seeds": list(SEEDS),
        "schedule": schedule,
    }
    found = run_method(**settings)
    plain = make_worlds()
    run = train(plain, TopFraction(), Schedule(**schedule))
    assert found == {**run.to_json(), "ends": plain.ends()}
    assert "kappa" in found["metrics"]


def test_a_quick_cell_is_small_and_keeps_what_its_target_changes():
    setup = {"setting": "table", "scenario": "medium", "changes": {"reward_noise": 0.5}}
    full = method_cell("t", "a", METHODS["BC"], setup, Options(seeds=7), steps=123, evaluations=9)
    assert full.settings["schedule"] == {"steps": 123, "evaluations": 9}
    assert full.settings["seeds"] == list(range(7))
    assert full.settings["setup"] == setup
    quick = method_cell("t", "a", METHODS["BC"], setup, Options(quick=True), steps=123)
    assert quick.settings["schedule"]["steps"] <= 10
    assert quick.settings["setup"]["changes"] == {"num_items": 300, "reward_noise": 0.5}
    assert setup["changes"] == {"reward_noise": 0.5}  # the caller's own is left alone
