"""Task collapse, support boundary and NaN, apart; and the collapse setting of the simulator."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

import torchrl_drpo as drpo
from torchrl_drpo.envs.recsim import RecSimEnv
from torchrl_drpo.evaluation.simulator import action_distance, raw_reward, retrieved_reward
from torchrl_drpo.objectives import CollapseEvents


def kinds(events: CollapseEvents) -> set[str]:
    return set(events.happened)


def test_a_task_collapses_after_patience_failures_in_a_row():
    events = CollapseEvents(1.0, warmup=2)
    rewards = [0.0, 0.1, 0.4, 0.44, 0.5, 0.2, 0.2, 0.2, 0.2]  # 45% of 1; two steps of warm-up
    when = [e.step for step, r in enumerate(rewards) for e in events.update(step, reward=r)]
    assert when == [7]  # 0.5 broke the first row of failures; reported once
    assert kinds(events) == {"task_collapse"}
    assert events.verdict == "collapsed"


def test_the_three_are_told_apart():
    boundary = CollapseEvents(1.0)
    (event,) = boundary.update(5, reward=1.0, log_scale=torch.tensor([0.0, -12.5]))
    assert (event.kind, event.step) == ("support_boundary", 5)
    assert "-12.5 below -12" in event.detail

    categorical = CollapseEvents(1.0, min_entropy=0.1)
    assert categorical.update(0, entropy=torch.tensor(0.2)) == []
    assert [e.kind for e in categorical.update(1, entropy=0.05)] == ["support_boundary"]

    broken = CollapseEvents(1.0)
    assert broken.update(0, values=[torch.ones(3)]) == []
    (event,) = broken.update(1, values=[torch.ones(3), torch.tensor([1.0, math.inf])])
    assert (event.kind, event.detail) == ("non_finite", "values[1] holds NaN or infinity")
    assert kinds(broken) == {"non_finite"}
    assert broken.update(2, values=[torch.tensor(math.nan)]) == []


def test_a_reward_of_nan_is_both_broken_and_no_reward():
    events = CollapseEvents(1.0, patience=1)
    assert {e.kind for e in events.update(0, reward=math.nan)} == {"non_finite", "task_collapse"}


def test_it_resumes():
    events = CollapseEvents(1.0)
    events.update(0, reward=0.0, log_scale=torch.tensor(-13.0))
    events.update(1, reward=0.0)
    resumed = CollapseEvents(1.0)
    resumed.load_state_dict(events.state_dict())
    assert resumed.happened == events.happened
    assert [e.kind for e in resumed.update(2, reward=0.0)] == ["task_collapse"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference_reward": 0.0}, "reference_reward"),
        ({"reference_reward": 1.0, "task_ratio": 1.5}, "task_ratio"),
        ({"reference_reward": 1.0, "patience": 0}, "patience"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        CollapseEvents(**arguments)


class TestCollapseSetting:
    """The ablation of arXiv 2602.10430 on the simulator's collapse setting.

    With the minimum baseline APG has no negatives and is stable; with the mean baseline over the
    top 20% ("hard filter alone") half of the kept rows repel, and the policy leaves the catalogue.
    """

    steps, every, n, rows = 1_000, 100, 320, 10_000

    @pytest.fixture
    def env(self) -> RecSimEnv:
        return RecSimEnv("collapse", seed=0)

    @pytest.fixture
    def log(self, env: RecSimEnv) -> TensorDict:
        return env.simulate_log(self.rows, "extreme", seed=1, propensity=False)

    def train(
        self,
        env: RecSimEnv,
        log: TensorDict,
        events: CollapseEvents | None,
        top: float = 1.0,
        **options: object,
    ) -> dict[str, float]:
        """Trains APG on the top of each batch; the last evaluation."""
        torch.manual_seed(0)
        actor = drpo.make_gaussian_actor(10, 128)
        loss = drpo.RepulsiveLoss(actor, normalize=True, **options)
        optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
        states = env.draw_states(1_000, seed=2)
        interest, delta = env.world.interest(states), env.setting.delta
        generator = torch.Generator().manual_seed(0)
        for step in range(1, self.steps + 1):
            batch = log[torch.randint(self.rows, (self.n,), generator=generator)]
            reward = batch["next", "reward"].squeeze(-1)
            batch = batch[reward.topk(int(self.n * top)).indices]
            optimizer.zero_grad()
            loss(batch)["loss_actor"].backward()
            optimizer.step()
            if step % self.every:
                continue
            with torch.no_grad():
                out = actor[0](TensorDict({"observation": states}, [1_000]))
            action, log_scale = out["loc"], out["scale"][0].log()
            figures = {
                "raw": raw_reward(action, interest, delta=delta),
                "retrieved": retrieved_reward(action, interest, env.items, delta=delta),
                "distance": action_distance(action, interest, env.items),
            }
            seen = {name: values.mean().item() for name, values in figures.items()}
            if events is not None:
                events.update(
                    step, reward=seen["raw"], log_scale=log_scale, values=actor.parameters()
                )
        return seen

    def test_stable_and_collapsing(self, env: RecSimEnv, log: TensorDict):
        positive_only = self.train(env, log, None, negative_scale=0.0)
        reference = positive_only["raw"]
        verdicts, ends = {}, {}
        for name, arguments in {
            "minimum baseline": {"baseline": "min"},
            "mean baseline, top 20%": {"baseline": "mean", "top": 0.2},
        }.items():
            events = CollapseEvents(reference, warmup=700)
            ends[name] = self.train(env, log, events, **arguments)
            verdicts[name] = (events.verdict, set(events.happened))
        assert verdicts == {
            "minimum baseline": ("stable", set()),
            "mean baseline, top 20%": ("collapsed", {"task_collapse"}),
        }
        assert ends["minimum baseline"]["retrieved"] > 0.3  # a random item earns about .046
        assert ends["minimum baseline"]["distance"] < 1.2
        assert ends["mean baseline, top 20%"]["distance"] > 3.0  # the catalogue lies within 1.5
