"""Steps that are chosen on validation rows: which ones, of which rows, and what is made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.pipeline.topic_log import DAYS, SCHEMA, config, make_log
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.stopping import StoppingConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.stopping import EarlyStopping, Look
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.pipeline.validation.inner import Judge

pytestmark = pytest.mark.usefixtures("one_thread")
METRIC = "ndcg@5_best"
#: A large step soon fits the training rows too well.
EARLY = StoppingConfig(early_stopping=True, validation_days=2, evaluate_every=10, patience=2)


def settings(log: Path, output: Path, stopping: StoppingConfig = EARLY, **changes) -> TrainConfig:
    base = {"objectives": ("bc",), "steps": 120, "learning_rate": 0.1, "test_days": 3}
    return config(log, output, stopping=stopping, **{**base, **changes})


@pytest.fixture(scope="module")
def stopped(log: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResults:
    return run_train(settings(log, tmp_path_factory.mktemp("stopped")))


@pytest.fixture(scope="module")
def without_test_days(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as it would be had nobody logged the last days."""
    folder = tmp_path_factory.mktemp("shorter")
    frame = pd.read_parquet(log / "log.parquet")
    frame[frame.time < (DAYS - 3) * 86_400].to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text((log / "schema.json").read_text())
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(PolicyCheckpoint.load(folder).actor.state_dict())


def test_the_best_step_is_that_of_the_curve(stopped: TrainResults) -> None:
    (facts,) = stopped.stops["bc"]
    steps, values = zip(*facts["curve"], strict=True)
    assert list(steps) == list(range(10, facts["trained"] + 1, 10))
    best = int(np.argmax(values))
    assert (facts["step"], facts["value"]) == (steps[best], values[best])
    assert len(values) - 1 - best == 2  # which was the end of patience
    assert facts["trained"] < 120
    assert any(f"best after step {facts['step']} of" in line for line in stopped.stop_sentences)


def test_looks_are_those_of_a_log_without_the_test_days(
    stopped: TrainResults, without_test_days: Path, tmp_path: Path
) -> None:
    facts = stopped.stops["bc"][0]
    for step, value in (facts["curve"][0], [facts["step"], facts["value"]]):
        alone = settings(
            without_test_days, tmp_path / f"{step}", StoppingConfig(), test_days=2, steps=step
        )
        assert run_train(alone).runs["bc"][0][METRIC] == pytest.approx(value, rel=1e-12)


def test_what_serves_is_trained_anew_on_all_training_rows(
    stopped: TrainResults, log: Path, tmp_path: Path
) -> None:
    step = stopped.stops["bc"][0]["step"]
    plain = run_train(settings(log, tmp_path / "plain", StoppingConfig(), steps=step))
    assert stopped.runs["bc"] == plain.runs["bc"]


def test_or_it_is_the_policy_of_the_best_step(
    stopped: TrainResults, log: Path, without_test_days: Path, tmp_path: Path
) -> None:
    kept = settings(log, tmp_path / "kept", replace(EARLY, refit=False))
    found = run_train(kept)
    facts = found.stops["bc"][0]
    assert facts | {"refit": True} == stopped.stops["bc"][0]
    alone = settings(
        without_test_days, tmp_path / "a", StoppingConfig(), test_days=2, steps=facts["step"]
    )
    run_train(alone)
    ours, theirs = weights(kept.output / "bc"), weights(alone.output / "bc")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stage", "refit", "every"),
    [("bc, seed 0, looked at", False, 40), ("bc, seed 0", True, 240)],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    log: Path, tmp_path: Path, stage: str, refit: bool, every: int
) -> None:
    stopping = replace(EARLY, refit=refit, evaluate_every=every, patience=9)
    plan = settings(log, tmp_path / "killed", stopping, steps=240, learning_rate=1e-3)

    def killer(name: str, step: int, steps: int) -> None:
        if name == stage and step == 220:  # the last checkpoint lies 20 steps back
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_train(plan, killer)
    told: dict[str, list[int]] = {}
    resumed = run_train(plan, lambda name, step, _: told.setdefault(name, []).append(step))
    assert told[stage][0] == 220
    whole = run_train(replace(plan, output=tmp_path / "whole"))
    assert (resumed.runs, resumed.stops) == (whole.runs, whole.stops)
    assert not list(plan.output.rglob("*.state"))
    never = lambda *_: pytest.fail("trained again")  # noqa: E731
    assert run_train(plan, lambda name, step, steps: step == steps or never()).runs == whole.runs


def test_the_test_rows_choose_nothing(stopped: TrainResults, log: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(log / "log.parquet")
    test = frame.time >= (DAYS - 3) * 86_400
    frame.loc[test, "play"] = frame.duration - frame.play
    frame.loc[test, "liked"] = 1 - frame.liked
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.json").write_text((log / "schema.json").read_text())
    found = run_train(settings(tmp_path, tmp_path / "run"))
    assert found.stops == stopped.stops
    assert found.runs != stopped.runs


@pytest.mark.usefixtures("quick_reward_fit")
def test_every_objective_stops_as_it_is_served(log: Path, tmp_path: Path) -> None:
    stopping = replace(EARLY, validation_metric="lift@5", patience=1)
    plan = settings(log, tmp_path, stopping, objectives=("bc", "bc-tilt"), steps=30)
    found = run_train(plan)
    values = {name: float(found.stops[name][0]["curve"][0][1]) for name in ("bc", "bc-tilt")}
    assert values["bc-tilt"] > values["bc"]  # the same policy, times a critic
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["early_stopping"] == json.loads(json.dumps(found.stops))


@pytest.mark.parametrize("policy", ["embedding"])
def test_policies_over_vectors_stop_too(log: Path, tmp_path: Path, policy: str) -> None:
    plan = settings(log, tmp_path, policy=policy, objectives=("drpo",), steps=30)
    found = run_train(replace(plan, stopping=replace(EARLY, patience=1)))
    assert found.stops["drpo"][0]["step"] in (10, 20, 30)


def test_rows_in_no_order_are_drawn_and_few_of_them_looked_at(log: Path, tmp_path: Path) -> None:
    stopping = StoppingConfig(True, validation_share=0.1, validation_rows=100, evaluate_every=10)
    plan = settings(log, tmp_path, stopping, steps=20, test_days=None, test_share=0.2)
    found = run_train(replace(plan, test_by="random"))
    assert "100 of " in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping": False}, "--validation-days says how training stops early"),
        ({"validation_share": 0.1}, "--validation-days or --validation-share, not both"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"validation_days": 0}, "validation_days must be at least 1"),
        ({"validation_metric": "lift@7"}, r"no metric 'lift@7' \(did you mean 'lift@5'"),
        ({"validation_metric": "hr@5_worst"}, "choose hr@5_best or a lift"),
        ({"validation_metric": "lift@5_worst_hits"}, "no metric 'lift@5_worst_hits'"),
        ({"validation_days": 30}, "hold out fewer"),
        ({"validation_days": None, "validation_share": 0.1}, "give validation_days"),
    ],
)
def test_what_cannot_be_done_is_said(log, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        run_train(settings(log, tmp_path, replace(EARLY, **changes)))
    assert not (tmp_path / "runs").exists()


def test_what_is_left_beside_the_validation_rows_must_do(log: Path, tmp_path: Path) -> None:
    plan = settings(log, tmp_path, replace(EARLY, validation_days=10), batch_size=500)
    with pytest.raises(ValueError, match="beside the validation rows: batch_size is 500 but"):
        run_train(plan)


def test_from_the_command_line(log: Path, tmp_path: Path, capsys) -> None:
    logs = ("--logs", str(log / "log.parquet"), "--schema", str(log / "schema.json"))
    words = (
        *("train", *logs, "--output", str(tmp_path / "a"), "--objectives", "bc", "--ks", "5"),
        *("--steps", "20", "--batch-size", "128", "--dim", "8", "--early-stopping"),
        *("--evaluate-every", "10", "--validation-metric", "hr@5", "--no-refit"),
    )
    assert cli.main(list(words)) == 0
    shown = capsys.readouterr().out
    assert "Steps were chosen by hr@5 on" in shown
    assert "that policy serves" in " ".join(shown.split())
    again = ("--config", str(tmp_path / "a" / "results.json"), *logs[:2])
    assert cli.main(["train", *again, "--output", str(tmp_path / "b")]) == 0
    one, two = (json.loads((tmp_path / each / "results.json").read_text()) for each in "ab")
    assert one == two


@pytest.mark.parametrize("metric", ["lift@1", "lift@1_within"])
def test_a_lift_over_no_worst_hit_does_not_win_for_want_of_rows(
    log: Path, tmp_path: Path, metric: str
) -> None:
    """Of 60 validation rows a list of one hits few or none that are poor."""
    stopping = replace(EARLY, validation_metric=metric, validation_rows=60, patience=9)
    plan = settings(log, tmp_path / "run", stopping, objectives=("drpo",), steps=60, ks=(1,))
    told: dict[str, list[dict[str, float]]] = {}
    plain = Judge.__call__

    def watched(judge: Judge, actor: object) -> dict[str, float]:
        found = plain(judge, actor)
        told.setdefault("looks", []).append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "__call__", watched)
        found = run_train(plan)
    (facts,) = found.stops["drpo"]
    hits = [look[f"{metric}_worst_hits"] for look in told["looks"]]
    rows = told["looks"][0][f"{metric}_worst_rows"]
    assert min(hits) == 0 < rows  # such a lift was infinite
    values = [value for _, value in facts["curve"]]
    assert all(value is None or math.isfinite(value) for value in values)
    best = int(np.argmax([-1 if value is None else value for value in values]))
    assert (facts["step"], facts["value"]) == (10 * (best + 1), values[best])
    if metric == "lift@1":
        for value, look, few in zip(values, told["looks"], hits, strict=True):
            expected = look["hr@1_best"] / (max(few, 1.0) / rows)
            assert value == pytest.approx(expected) or (value is None and expected == 0)
    assert hits[best] == 0
    assert (facts["worst_hits"], facts["worst_rows"]) == (0, rows)
    (line,) = found.stop_sentences
    assert f"It hit 0 of the {int(rows)} worst validation rows" in line
    assert "Hold out more of them (--validation-days" in line
    written = json.loads((plan.output / "results.json").read_text())
    assert written["early_stopping"]["drpo"] == [facts]
    assert "Infinity" not in (plan.output / "results.json").read_text()


def test_an_infinite_value_is_never_best() -> None:
    weights = {"w": torch.zeros(1)}
    stopping = EarlyStopping("ratio", patience=3)
    for step, value in enumerate((math.inf, 1.5, math.inf, math.nan)):
        stopping.look(step, {"ratio": value}, weights)
    assert (stopping.best, stopping.done) == (Look(1, 1.5), False)
    stopping = EarlyStopping("ratio", patience=3)
    stopping.look(0, {"ratio": math.inf}, weights)
    with pytest.raises(ValueError, match=r"not a finite number at any of 1 looks .* hold out more"):
        stopping.restore(weights)


DIVERGES = """
from torchrl_drpo import BehaviorCloningLoss

class Diverges(BehaviorCloningLoss):
    \"\"\"From its 26th step on.\"\"\"
    steps = 0

    def forward(self, tensordict):
        self.steps += self.training
        out = super().forward(tensordict)
        if self.steps > 25:
            out["loss_actor"] = out["loss_actor"] * float("nan")
        return out
"""


def test_a_policy_that_diverges_was_best_before(log, tmp_path, monkeypatch) -> None:
    (tmp_path / f"own_{tmp_path.name}.py").write_text(DIVERGES)
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}:Diverges"
    plan = settings(log, tmp_path / "run", objectives=(name,), learning_rate=1e-3, seeds=1)
    (facts,) = run_train(plan).stops[name]
    unknown = [value is None for _, value in facts["curve"]]
    assert unknown[:3] == [False, False, True]
    assert all(unknown[2:])
    assert facts["step"] in (10, 20)
    with pytest.raises(
        ValueError, match=rf"^{name}, seed 0: the catalogue's logits must be finite"
    ):
        run_train(replace(plan, output=tmp_path / "whole", stopping=StoppingConfig(), steps=30))


def test_a_metric_that_can_be_no_number_is_refused_before_anything_is_trained(tmp_path) -> None:
    """Where all validation rows are poor: none is among the best, whoever is judged."""
    frame = make_log()
    late = frame.time >= (DAYS - 5) * 86_400
    frame.loc[late & (frame.time < (DAYS - 3) * 86_400), "play"] = 0.0
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    for metric in (METRIC, "lift@5", "lift@5_within"):
        plan = settings(
            tmp_path, tmp_path / "run", stopping=replace(EARLY, validation_metric=metric)
        )
        with pytest.raises(
            ValueError, match=rf"{metric} is no number on these \d+ validation rows"
        ):
            run_train(plan)
    assert not list((tmp_path / "run").glob("runs/*"))
