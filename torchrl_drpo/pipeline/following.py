"""What the ranks beside the first do in ``drpo train``: open what it made, and train along."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from torchrl_drpo.distributed.ranks import world_size
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import Crew, found_device
from torchrl_drpo.pipeline.kinds.training import PolicyTraining
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.rows import SplitLog

#: Rank 0's word for a run that needs no training.
FINISHED = 0
_DIGITS = 12


def follow(config: TrainConfig, crew: Crew) -> None:
    """Trains every run that rank 0 trains; writes and says nothing."""
    config = replace(config, device=found_device(config.device))
    crew.hear()  # that the log is converted
    data = SplitLog.open(
        config, config.output / "log", history_columns=config.model.history_columns
    )
    crew.hear()  # that the reward model is fitted
    training: PolicyTraining = KINDS[config.policy].load_training()(data, config, _quiet)
    for objective in training.objectives:
        for seed in config.every_seed:
            word = crew.hear()
            if word != FINISHED:
                state = run_state(config, objective, seed, word)
                training.train(objective, seed, state, lambda step, steps: None)


def word_of(identity: str) -> int:
    """The first digits of a run's fingerprint, never :data:`FINISHED`.

    >>> word_of("00000000000a" + 52 * "0")
    10
    """
    return int(identity[:_DIGITS], 16) or 1


def run_state(config: TrainConfig, objective: str, seed: int, word: int) -> Path:
    """Where the state of a run under way lies: a file of one process, a folder of several."""
    kind = "ranks" if world_size() > 1 else "state"
    return config.output / "runs" / f"{file_name(objective)}-{seed}-{word:0{_DIGITS}x}.{kind}"


def forget(state: Path) -> None:
    """Removes the state of a run that has ended."""
    if state.is_dir():
        shutil.rmtree(state)
    else:
        state.unlink(missing_ok=True)


def _quiet(name: str, step: int, steps: int) -> None:
    """No progress is shown."""
