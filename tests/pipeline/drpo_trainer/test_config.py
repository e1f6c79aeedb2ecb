"""`DRPOTrainerConfig`: the trainer's numbers under the trainer's names, made by Hydra."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from torchrl_drpo import AWRLoss, DRPOLoss, make_gaussian_actor
from torchrl_drpo.data import load_log
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.drpo_trainer import DRPOTrainer, DRPOTrainerConfig
from torchrl_drpo.pipeline.drpo_trainer.config import make_drpo_trainer

RUN = """
defaults:
  - trainer: drpo
  - _self_
trainer:
  steps: 12
  batch_size: 16
  decay: cosine
  actor_network: {_target_: torchrl_drpo.make_gaussian_actor, state_dim: 10, action_dim: 128}
  loss: {_target_: torchrl_drpo.DRPOLoss, _partial_: true, kappa: 0.25}
  replay_buffer: {_target_: torchrl_drpo.data.load_log, name: recsim-extreme, rows: 100}
  optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.01}
"""


def parts() -> dict:
    return {
        "replay_buffer": load_log("recsim-extreme", rows=50),
        "actor_network": make_gaussian_actor(10, 128),
    }


def test_names_and_defaults_are_those_of_the_trainer_and_its_numbers():
    offered = {f.name: f.default for f in fields(DRPOTrainerConfig)}
    for number in fields(TrainerConfig):
        assert offered[number.name] == number.default
    for name, parameter in inspect.signature(DRPOTrainer).parameters.items():
        if name not in ("loss", "replay_buffer", "config"):
            assert offered[name] == parameter.default


def test_hydra_makes_it(tmp_path: Path):
    hydra = pytest.importorskip("hydra")
    (tmp_path / "run.yaml").write_text(RUN)
    with hydra.initialize_config_dir(str(tmp_path), version_base=None):
        config = hydra.compose("run", overrides=["trainer.steps=3"])
    trainer = hydra.utils.instantiate(config.trainer)
    assert trainer.config == TrainerConfig(steps=3, batch_size=16, decay="cosine")
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.loss_module.kappa.item() == 0.25
    trainer.train()
    assert trainer.step == 3


def test_the_parts_go_together_without_hydra_too():
    trainer = make_drpo_trainer(**parts(), steps=2, batch_size=4)
    assert isinstance(trainer.loss_module, DRPOLoss)
    assert trainer.config.steps == 2
    assert isinstance(make_drpo_trainer(**parts(), loss=AWRLoss).loss_module, AWRLoss)
    finished = DRPOLoss(make_gaussian_actor(10, 128))
    with pytest.raises(ValueError, match="the loss is finished"):
        make_drpo_trainer(**parts(), loss=finished)
    with pytest.raises(ValueError, match="give actor_network"):
        make_drpo_trainer(replay_buffer=parts()["replay_buffer"])
