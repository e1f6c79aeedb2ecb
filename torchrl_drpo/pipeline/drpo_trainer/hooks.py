"""What `DRPOTrainer` hooks into TorchRL's loop: rates, evaluations, and whose checkpoint it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.trainers import Trainer
from torchrl.trainers.algorithms.offline_to_online import OfflineToOnlineReplayBufferHook
from torchrl.trainers.trainers import DefaultOptimizationStepper, TrainerHookBase

from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import Evaluate, check_same_run


class RateStepper(DefaultOptimizationStepper):
    """TorchRL's step at the learning rate of that step; its logged values hold no graph.

    Args:
        config: says the rates; ``None`` leaves the optimiser's own.
    """

    def __init__(self, config: TrainerConfig | None) -> None:
        super().__init__()
        self.config = config

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """One step; returns the loss's output, detached."""
        if self.config is not None:
            rate = self.config.rate(trainer._optim_count)  # counted before the step is taken
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate
        return super().step(trainer, sub_batch).detach()


class Evaluations(TrainerHookBase):
    """Calls an evaluation every so many steps and after the last, and keeps what it found.

    Args:
        evaluate: from a step to metrics; ``None`` for none.
        config: says how often.
    """

    def __init__(self, evaluate: Evaluate | None, config: TrainerConfig) -> None:
        self.evaluate, self.config = evaluate, config
        self.values: dict[str, list[tuple[int, float]]] = {}
        self._evaluated = 0

    def register(self, trainer: Trainer, name: str = "evaluations") -> None:
        """After the steps of a batch, before the trainer is saved."""
        self._trainer = trainer
        trainer.register_op("post_steps", self)
        trainer.register_module(name, self)

    @torch.no_grad()
    def __call__(self) -> None:
        """Evaluates where it is time to."""
        every, step = self.config.evaluate_every, self._trainer.step
        due = step // every > self._evaluated // every or step >= self.config.steps
        if self.evaluate is None or not due:
            return
        self._evaluated = step
        loss, logger = self._trainer.loss_module, self._trainer.logger
        loss.eval()
        try:
            found = self.evaluate(step)
        finally:
            loss.train()
        for name, value in found.items():
            self.values.setdefault(name, []).append((step, value))
            if logger is not None:
                logger.log_scalar(f"evaluation/{name}", value, step=self._trainer.collected_frames)

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"values": self.values, "evaluated": self._evaluated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what another run had found."""
        self.values, self._evaluated = dict(state_dict["values"]), state_dict["evaluated"]


class BothParts(OfflineToOnlineReplayBufferHook):
    """TorchRL's hook, which names what a collector does not bring of the log's entries."""

    def extend(self, batch: TensorDictBase) -> TensorDictBase:
        """Stores a collector's rows; raises ``ValueError`` for those without an entry of the log.

        TorchRL would store them, and fail when it joins rows of both parts.
        """
        brought = set(batch.keys(include_nested=True, leaves_only=True))
        missing = [key for key in self._aligned_keys() or () if key not in brought]
        if missing:
            raise ValueError(
                f"rows of the log hold {', '.join(map(repr, missing))}, which the collector's do "
                "not; open the log with columns=() and sample_index=False, or name in columns= "
                "what the collector brings"
            )
        return super().extend(batch)


class SameRun(TrainerHookBase):
    """The run's numbers, which those who resume it must share.

    Args:
        config: the numbers.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def register(self, trainer: Trainer, name: str = "config") -> None:
        """Among what a checkpoint holds."""
        trainer.register_module(name, self)

    def state_dict(self) -> dict[str, Any]:
        """The numbers by their names."""
        return asdict(self.config)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks them; raises ``ValueError`` for those of another run."""
        check_same_run(state_dict, self.config)
