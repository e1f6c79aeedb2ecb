"""Encoders of a user's own: what they must be, and that only who names them runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.own_module import own_module
from tests.pipeline.topic_log import SCHEMA, config, make_log
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies.encoders import EncoderConfig, HistoryEncoder
from torchrl_drpo.references import allowing

MODULE = """
import torch
from torch import nn
from torchrl_drpo.policies.encoders import HistoryGRU

class Sums(nn.Module):
    def __init__(self, dim, length):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, embedded):
        start = torch.zeros_like(embedded[:, :1])
        return torch.cat([start, embedded], 1).cumsum(1) * self.scale

class Peeks(Sums):
    def forward(self, embedded):
        return super().forward(embedded) + embedded.mean(1, keepdim=True)

class PeeksAtTheNext(Sums):
    # Into the middle of a history: its last item changes no state before it.
    def forward(self, embedded):
        states = super().forward(embedded)
        states[:, 1] += embedded[:, 1]
        return states

class Mixes(Sums):
    def forward(self, embedded):
        states = super().forward(embedded)
        return states - states.mean(0, keepdim=True)

class Divides(Sums):
    def forward(self, embedded):
        return super().forward(embedded) / 0

class Short(Sums):
    def forward(self, embedded):
        return super().forward(embedded)[:, 1:]

def same_gru(dim, length):
    return HistoryGRU(dim, width=dim, layers=2)

def number(dim, length):
    return 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with own_module(tmp_path, MODULE, monkeypatch) as name:
        yield name


def encoder(reference: str, length: int = 5) -> HistoryEncoder:
    with allowing(reference):
        return HistoryEncoder(4, length, config=EncoderConfig(reference))


def test_states_are_those_of_the_items_that_are_there(module: str) -> None:
    made = encoder(f"{module}:Sums")
    embedded = torch.randn(3, 5, 4)
    mask = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]], dtype=torch.bool)
    expected = (embedded * mask.unsqueeze(-1)).sum(1) * 4**0.5
    torch.testing.assert_close(made(embedded, mask), expected)
    places = made.places(embedded, mask)
    torch.testing.assert_close(places[2, 3], expected[2])


@pytest.mark.parametrize("length", [1, 2, 5, 130])
@pytest.mark.parametrize("name", ["Sums", "same_gru"])
def test_what_is_causal_is_taken_at_every_length(module: str, name: str, length: int) -> None:
    encoder(f"{module}:{name}", length)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Peeks", "a later item changes the states before it"),
        ("PeeksAtTheNext", "a later item changes the states before it"),
        ("Mixes", "another history of the batch changes the states of this one"),
        ("Divides", "states that are not finite"),
        (
            "Short",
            r"it made \(2, 5, 4\); expected the states after 0, 1, ..., 5 items, \(2, 6, 4\)",
        ),
        ("number", "made a int; expected a Module"),
        ("Sum", "has no 'Sum' .did you mean 'Sums'"),
    ],
)
def test_what_is_no_encoder_is_refused(module: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(f"{module}:{name}")


def test_what_nobody_has_allowed_is_not_imported(module: str) -> None:
    with pytest.raises(ValueError, match=f"allow it by --allow-code {module}:Sums"):
        HistoryEncoder(4, 5, config=EncoderConfig(f"{module}:Sums"))
    assert module not in sys.modules


def test_misspelt_kinds_are_told_from_references() -> None:
    with pytest.raises(ValueError, match=r"no encoder 'transfomer' .did you mean 'transformer'"):
        ModelConfig(encoder="transfomer")


@pytest.mark.usefixtures("one_thread")
def test_from_training_to_a_list(tmp_path: Path, module: str, capsys) -> None:
    make_log().to_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    reference = f"{module}:same_gru"
    plans = {
        name: config(
            tmp_path,
            tmp_path / name,
            objectives=("bc",),
            steps=20,
            model=ModelConfig(dim=16, hidden=(32,), encoder=kind),
        )
        for name, kind in {"own": reference, "gru": "gru"}.items()
    }
    found = {name: run_train(plan).runs["bc"] for name, plan in plans.items()}
    torch.manual_seed(0)
    assert found["own"] == found["gru"]  # the same layers, drawn in the same order

    # A checkpoint runs no code, whoever reads it, unless it is told.
    sys.modules.pop(module)
    folder = tmp_path / "own" / "bc"
    words = ("recommend", "--checkpoint", str(folder), "--user", "1003", "--k", "2", "--json")
    assert cli.main(list(words)) == 2
    assert f"--allow-code {reference}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="do not run it"):
        PolicyCheckpoint.load(folder, allow_code=[f"{module}:Sums"])
    assert module not in sys.modules
    assert cli.main([*words, "--allow-code", reference]) == 0
    listed = capsys.readouterr().out
    same = ("recommend", "--checkpoint", str(tmp_path / "gru" / "bc"), *words[3:])
    assert cli.main(list(same)) == 0
    assert capsys.readouterr().out == listed
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write("# changed")
    with pytest.warns(UserWarning, match=f"the code of {reference} has changed since"):
        PolicyCheckpoint.load(folder, allow_code=[reference])
    (tmp_path / f"{module}.py").unlink()
    sys.modules.pop(module)
    assert cli.main([*words, "--allow-code", reference]) == 2
    assert f"cannot import {module}" in capsys.readouterr().err
