"""What is searched, as a command line writes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from torchrl_drpo.pipeline.config.space import applied, dimension, usual
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.config.tune import TuneConfig
from torchrl_drpo.pipeline.objectives.make import check_options
from torchrl_drpo.pipeline.objectives.named import NAMES, OBJECTIVES, find_objective

LOG = {"logs": "log.parquet", "preset": "kuairand"}


@pytest.mark.parametrize("name", NAMES)
def test_the_usual_space_of_every_objective_is_one_that_it_takes(name: str) -> None:
    policy = (*OBJECTIVES[name].policies, "catalogue")[0]
    config = TuneConfig(**LOG, objectives=(name,), policy=policy)
    assert [str(each) for each in config.dimensions] == usual(name, find_objective(name))
    for each in config.dimensions:
        for value in each.ends:
            trial = applied(config.trained, {each.name: value})
            check_options(name, trial.objective(name), policy)


def test_values_become_settings() -> None:
    config = TrainConfig(**LOG, objectives=("drpo",), set=("drpo.ties=first",))
    values = {"drpo.kappa": 0.25, "drpo.weighting": "kl", "learning_rate": 0.01, "dim": 32}
    found = applied(config, values)
    assert found.options == {"drpo": {"ties": "first", "kappa": 0.25, "weighting": "kl"}}
    assert (found.learning_rate, found.model.dim) == (0.01, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kappa", "takes NAME=LOW..HIGH"),
        ("kapa=0..1", r"is called 'kapa' .did you mean 'drpo.kappa'.*there are learning_rate"),
        ("learning_rat=1..2", r"did you mean 'learning_rate'"),
        ("drpo.kappa=a..1", "expected two numbers, got 'a' and '1'"),
        ("drpo.kappa=1..0.5", "the first number must be the smaller one"),
        ("drpo.kappa=0..1:log", "begins above 0"),
        ("drpo.kappa=0..1:lin", "ends with nothing or :log, got 'lin'"),
        ("batch_size=1.5..3", "batch_size is a whole number"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dimension(text, "drpo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ()}, "one objective is tuned at a time, got 0"),
        ({"objectives": ("bc", "drpo")}, "got 2"),
        ({"space": ("awr.temperature=1..2",)}, "'awr' is none of the objectives"),
        ({"space": ("drpo.kapa=0..1",)}, "no option 'kapa' .did you mean 'kappa'"),
        ({"space": ("drpo.weighting=linear,best",)}, "expected linear, uniform"),
        ({"space": ("dim=8..9", "dim=8,9")}, "names dim twice"),
        ({"space": ("layers=1..3",)}, "layers=1..3: all its values train the same run"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"keep": 0.0}, "keep must lie in"),
        # Else its choice, of fewer steps than warm up, could not be written when all is done.
        ({"warm_up": 101}, "best at its first look, after 100 steps.*warm_up is 101 steps"),
        ({"metrics": ("a", "b", "c")}, "name one metric, or two others"),
    ],
)
def test_what_cannot_be_searched_is_said(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneConfig(**{**LOG, "objectives": ("drpo",), **changes})


def test_a_schedule_is_looked_at_when_it_has_ended() -> None:
    config = TuneConfig(**LOG, objectives=("bc",), steps=700, decay="cosine", warm_up=300)
    assert config.stopping.evaluate_every == 700


def test_optuna_is_imported_for_a_search_alone() -> None:
    code = "import sys, torchrl_drpo.pipeline.tune.command; print('optuna' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
