"""Objectives of a user's own: by reference, with their options, and run by nobody else."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.own_module import own_module
from tests.pipeline.topic_log import config
from torchrl_drpo import cli
from torchrl_drpo.pipeline.objectives.named import find_objective
from torchrl_drpo.pipeline.objectives.own import load, own_options
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.references import source_digest
from torchrl_drpo.report.methods import METHODS, OWN, method

pytestmark = pytest.mark.usefixtures("one_thread")
MODULE = """
import functools
from typing import Literal

from torchrl_drpo import BehaviorCloningLoss, DRPOLoss

class Mine(DRPOLoss):
    def __init__(self, actor, *, share: float = 0.5, ties: Literal["first", "fraction"] = "first",
                 label: str | None = None, other=None, **more) -> None:
        super().__init__(actor, kappa=share, ties=ties)

def cloned(actor):
    return BehaviorCloningLoss(actor)

def needy(actor, strength):
    return None

def nothing(actor):
    return actor

NUMBER = 3

class Inherits(BehaviorCloningLoss):
    pass

class Raises(BehaviorCloningLoss):
    def forward(self, tensordict):
        raise RuntimeError("of mine")

class Lacks(BehaviorCloningLoss):
    def forward(self, tensordict):
        return super().forward(tensordict.exclude("action"))

def unmade(actor):
    raise RuntimeError("of mine")

third = functools.partial(DRPOLoss, kappa=1 / 3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with own_module(tmp_path, MODULE, monkeypatch) as name:
        yield name
    own_options.cache_clear()


def test_an_own_loss_trains_as_the_same_loss_by_name(log: Path, tmp_path: Path, module) -> None:
    own, clone = f"{module}:Mine", f"{module}:cloned"
    shared = {"steps": 20, "set": ("drpo.kappa=0.3", "drpo.ties=first", f"{own}.share=0.3")}
    plan = config(log, tmp_path / "run", objectives=("drpo", "bc", own, clone), **shared)
    found = run_train(plan)
    assert found.runs[own] == found.runs["drpo"]
    assert found.runs[clone] == found.runs["bc"]
    assert found.table().rows[-2][0] == "Mine"
    fingerprint = json.loads((tmp_path / "run" / "runs" / f"{module}.Mine-0.json").read_text())
    again = json.loads((tmp_path / "run" / "results.json").read_text())["config"]["set"]
    assert f"{own}.share=0.3" in again

    # Other code is another run.
    path = tmp_path / f"{module}.py"
    before = source_digest(own, "objective")
    path.write_text(path.read_text() + "\nSAID = 1\n")
    assert source_digest(own, "objective") != before
    run_train(replace(plan, objectives=(own,), set=(f"{own}.share=0.3",), options={}))
    after = json.loads((tmp_path / "run" / "runs" / f"{module}.Mine-0.json").read_text())
    assert after["fingerprint"] != fingerprint["fingerprint"]
    assert after["metrics"] == fingerprint["metrics"]

    # A checkpoint runs none of it.
    path.write_text("raise SystemError('imported')")
    sys.modules.pop(module, None)
    own_options.cache_clear()
    policy = ("--checkpoint", str(tmp_path / "run" / f"{module}.Mine"))
    assert cli.main(["recommend", *policy, "--user", "1003", "--k", "2"]) == 0
    assert cli.main(["evaluate", *policy, "--logs", str(log / "log.parquet"), "--ks", "5"]) == 0


@pytest.mark.parametrize(
    "line", ["Named = torchrl_drpo.{}", "Named = functools.partial(torchrl_drpo.{})"]
)
def test_a_module_that_names_what_lies_elsewhere_is_looked_at(
    tmp_path: Path, monkeypatch, line: str
) -> None:
    """Both losses lie in files that do not change; which of them is meant says the module."""
    monkeypatch.chdir(tmp_path)
    path, found = tmp_path / f"own_{tmp_path.name}.py", []
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for loss in ("RepulsiveLoss", "DRPOLoss", "RepulsiveLoss"):
        path.write_text(f"import functools\nimport torchrl_drpo\n{line.format(loss)}\n")
        sys.modules.pop(path.stem, None)
        found.append(source_digest(f"{path.stem}:Named", "objective"))
    sys.modules.pop(path.stem, None)
    assert found[0] == found[2] != found[1]
    assert source_digest("builtins:len", "function") == ""  # of no file


def test_a_loss_whose_annotations_are_for_type_checkers_is_one(log, tmp_path, module) -> None:
    inherits, third, named = f"{module}:Inherits", f"{module}:third", "torchrl_drpo:AWRLoss"
    assert vars(find_objective(inherits).options)["level"] == "step"
    assert "over" not in vars(
        find_objective(inherits).options
    )  # of a type that is imported nowhere
    assert vars(find_objective(named).options)["temperature"] == 1.0
    plan = config(
        log, tmp_path / "run", objectives=("bc", "drpo", inherits, third), steps=20,
        set=(f"drpo.kappa={1 / 3}",),
    )  # fmt: skip
    found = run_train(plan)
    assert found.runs[inherits] == found.runs["bc"]
    assert found.runs[third] == found.runs["drpo"]


def test_its_options_are_its_annotated_arguments(module) -> None:
    name = f"{module}:Mine"
    found = find_objective(name, {"share": 0.25})
    assert vars(found.options) == {"share": 0.25, "ties": "first", "label": None}
    with pytest.raises(ValueError, match=r"no option 'shar' .did you mean 'share'"):
        find_objective(name, {"shar": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Loss", "cannot import nowhere .*looked for in the current folder"),
        ("{}:Min", "has no 'Min' .did you mean 'Mine'"),
        ("{}:NUMBER", "is a int; expected a class or a function"),
        ("{}:needy", "its argument 'strength' has no default"),
        ("{}:", "is no reference; expected module:name"),
        ("a b:c", "is no reference"),
    ],
)
def test_what_is_no_objective_is_refused(module, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_objective(name.format(module))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:Raises", r"^drpo: own_\w+.py, line \d+, in forward: RuntimeError: of mine"),
        ("{}:Lacks", r"^drpo: own_\w+.py, line \d+, in forward: KeyError: "),
        ("{}:unmade", r"^drpo: .*own_\w+:unmade made no loss of the actor, it raised Runtime"),
        ("operator:neg", "operator:neg made no loss of the actor, it raised TypeError: bad op"),
        ("broken:Loss", "objective 'broken:Loss': importing broken raised SyntaxError: invalid"),
        ("divides:Loss", "objective 'divides:Loss': importing divides raised ZeroDivisionError"),
    ],
)
def test_what_own_code_raises_is_no_fault_of_ours(
    log: Path, tmp_path: Path, module, name: str, message: str, capsys
) -> None:
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "divides.py").write_text("1 / 0")
    words = ("--logs", str(log / "log.parquet"), "--schema", str(log / "schema.json"))
    more = ("--output", str(tmp_path / "run"), "--steps", "2", "--batch-size", "64")
    assert cli.main(["train", *words, *more, "--objectives", name.format(module)]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said, re.MULTILINE), said
    assert "a fault of drpo" not in said


def test_what_makes_no_loss_is_refused_before_anything_is_trained(log, tmp_path, module) -> None:
    with pytest.raises(ValueError, match="made a ProbabilisticActor of the actor"):
        run_train(config(log, tmp_path / "run", objectives=(f"{module}:nothing",)))
    assert not (tmp_path / "run").exists()


def test_the_current_folder_is_looked_in_for_the_import_alone(module, tmp_path) -> None:
    load(f"{module}:Mine")
    assert str(tmp_path) not in sys.path


def test_they_have_a_name_and_a_colour() -> None:
    assert method("a.b:Mine").name == "Mine"
    assert not set(OWN) & {each.colour for each in METHODS.values()}
