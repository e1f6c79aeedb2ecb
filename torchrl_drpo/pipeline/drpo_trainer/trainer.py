"""`DRPOTrainer`: TorchRL's `Trainer` with a log in the collector's place."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from functools import partial
from pathlib import Path
from typing import Any

from tensordict import TensorDict, TensorDictBase
from torch import nn
from torch.optim import Optimizer
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import BaseCollector
from torchrl.data import OfflineToOnlineReplayBuffer, ReplayBuffer
from torchrl.objectives.common import LossModule
from torchrl.record.loggers.common import Logger
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import UpdateWeights

from torchrl_drpo.data import BufferSource
from torchrl_drpo.objectives import DRPOLoss
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import Evaluate, make_optimizer

from .hooks import BothParts, Evaluations, RateStepper, SameRun

#: What a checkpoint is made of: numbers and JSON.
_PLAIN = (".json", ".memmap")


class DRPOTrainer(Trainer):
    """Trains an objective on a log in TorchRL's ``Trainer``, and goes on with a collector's rows.

    TorchRL's loop, hooks, loggers and checkpoints, with the names of :class:`TrainerConfig`; see
    ``DRPOTrainerConfig`` for Hydra's side. Loggers get every entry of the loss's output and what
    ``evaluate`` finds against frames, the rows that were read (or, with a collector, served).

    Args:
        loss: a LossModule of this package or any other, or an actor, which gets a ``DRPOLoss``.
        replay_buffer: the log: what :class:`~torchrl_drpo.data.BufferSource` takes. With a
            ``collector`` TorchRL's ``OfflineToOnlineReplayBuffer``.
        config: the numbers of the run. Losses are logged at the multiples of ``log_every`` alone.

    Keyword Args:
        collector: brings new rows for the buffer's online part: each of its batches is stored, as
            far as the log has its columns, and followed by ``optim_steps_per_batch`` steps on
            batches of both parts; then it gets the new weights.
        optim_steps_per_batch: steps after each batch of the collector.
        anneal_steps: steps over which the share of logged rows falls from the buffer's
            ``offline_fraction`` to none; it stays by default.
        optimizer: one of your own, with its own learning rates; ``config``'s Adam by default.
        logger: of TorchRL.
        evaluate: called with the step, in eval mode and without gradients, every
            ``evaluate_every`` steps and after the last; returns metrics.
        checkpoint: folder of TorchRL's checkpoint, written every ``checkpoint_every`` steps and
            at the end; one that is there is resumed from. Offline, a resumed run ends as one that
            was never interrupted, bit for bit, given a buffer as it was made at the beginning.
            With a collector the policy, optimizer and served rows are those that were saved, and
            the environment starts anew.
        seed: of the buffer's generator (or the collector) and torch's.
        progress_bar: whether to show one, of frames.

    Attributes:
        evaluations: metrics by name: ``[(step, value), ...]``.

    Raises:
        TypeError: for a collector without an ``OfflineToOnlineReplayBuffer``, or one without a
            collector.
        CheckpointError: TorchRL's, for a checkpoint of a run with other numbers.
        ValueError: while training, for batches of more than ``batch_size`` rows, whose frames would
            not count steps, and for a collector's rows without an entry that the log's have.

    Examples:
        >>> import torch
        >>> from torchrl_drpo import RecReplayBuffer, RecSimEnv, make_gaussian_actor
        >>> rows = RecSimEnv("table").simulate_log(64, "extreme", seed=1)
        >>> log = RecReplayBuffer.from_tensordict(rows, generator=torch.Generator())
        >>> config = TrainerConfig(steps=20, batch_size=8, evaluate_every=10)
        >>> actor = make_gaussian_actor(state_dim=10, action_dim=128)
        >>> trainer = DRPOTrainer(actor, log, config, evaluate=lambda step: {"twice": 2 * step})
        >>> trainer.train()
        >>> trainer.evaluations
        {'twice': [(10, 20), (20, 40)]}
    """

    def __init__(
        self,
        loss: LossModule | nn.Module,
        replay_buffer: ReplayBuffer | OfflineToOnlineReplayBuffer,
        config: TrainerConfig | None = None,
        *,
        collector: BaseCollector | None = None,
        optim_steps_per_batch: int = 1,
        anneal_steps: int | None = None,
        optimizer: Optimizer | None = None,
        logger: Logger | None = None,
        evaluate: Evaluate | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        progress_bar: bool = False,
    ) -> None:
        self.config = config = TrainerConfig() if config is None else config
        _check_collector(collector, replay_buffer, optim_steps_per_batch)
        loss = loss if isinstance(loss, LossModule) else DRPOLoss(loss)
        if collector is None:
            source, frames = BufferSource(replay_buffer, config.batch_size), config.batch_size
        else:
            source, frames = collector, collector.requested_frames_per_batch / optim_steps_per_batch
        own_rates = optimizer is not None
        super().__init__(
            collector=source,
            total_frames=round(config.steps * frames),
            frame_skip=1,
            optim_steps_per_batch=optim_steps_per_batch,
            loss_module=loss,
            optimizer=optimizer if own_rates else make_optimizer(loss, config),
            optimization_stepper=RateStepper(None if own_rates else config),
            logger=logger,
            clip_norm=config.max_grad_norm,
            progress_bar=progress_bar,
            seed=seed,
            # TorchRL waits for more frames than its intervals.
            log_interval=config.log_every * frames - 1,
            save_trainer_interval=config.checkpoint_every * frames - 1,
            save_trainer_file=None if checkpoint is None else Path(checkpoint),
            checkpoint=None if checkpoint is None else Checkpoint(),
        )
        # TorchRL's own are shared by all trainers of a class, and keep every value ever logged.
        self._last_log, self._log_dict = {}, defaultdict(partial(deque, maxlen=1))
        SameRun(config).register(self)
        if collector is None:
            self.register_op("batch_process", self._check_rows)
        else:
            self._go_online(replay_buffer, anneal_steps)
        self.register_op("post_steps", self._stop_after_last)
        self._evaluations = Evaluations(evaluate, config)
        self._evaluations.register(self)
        if checkpoint is not None and Checkpoint.is_checkpoint(checkpoint):
            self.load_from_file(checkpoint)

    def train(self) -> None:
        """Trains up to ``config.steps``, from wherever the run stands."""
        self.loss_module.train()
        self._stop_training = False
        if self.step < self.config.steps:
            super().train()

    def load_from_file(self, file: str | os.PathLike[str], **kwargs: Any) -> Trainer:
        """Takes up the run of a checkpoint, as TorchRL's, which see.

        Raises:
            ValueError: for a checkpoint with files of other kinds than it consists of. tensordict
                unpickles some that it finds within a state, and so runs what they say.
        """
        for path in sorted(Path(file).rglob("*")):
            if path.suffix not in _PLAIN and not path.is_dir():
                raise ValueError(
                    f"{path} is no part of a checkpoint of {type(self).__name__}, which holds "
                    f"{' and '.join(_PLAIN)} files alone; it was changed by somebody, and loading "
                    "it may run code: delete the checkpoint to start anew"
                )
        return super().load_from_file(file, **kwargs)

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self._optim_count

    @property
    def evaluations(self) -> dict[str, list[tuple[int, float]]]:
        """Metrics by name: ``[(step, value), ...]``."""
        return self._evaluations.values

    def _go_online(self, buffer: OfflineToOnlineReplayBuffer, anneal_steps: int | None) -> None:
        """Stores a collector's rows, draws from both parts, hands the collector new weights."""
        BothParts(buffer, batch_size=self.config.batch_size).register(self)
        if anneal_steps is not None:
            self.register_op("post_steps", lambda: buffer.anneal(self.step, anneal_steps))
        weights = partial(TensorDict.from_module, self.loss_module.actor_network)
        UpdateWeights(self.collector, 1, policy_weights_getter=weights).register(self)

    def _check_rows(self, batch: TensorDictBase) -> TensorDictBase:
        if batch.numel() > self.config.batch_size:
            raise ValueError(
                f"a batch of this buffer is {tuple(batch.shape)}, {batch.numel()} rows where "
                f"batch_size is {self.config.batch_size}: steps could not be told by frames. Use "
                "TorchRL's Trainer with BufferSource and total_frames of your own"
            )
        return batch

    def _stop_after_last(self) -> None:
        if self.step >= self.config.steps:
            self.request_stop()


def _check_collector(
    collector: BaseCollector | None, replay_buffer: ReplayBuffer, optim_steps_per_batch: int
) -> None:
    """Raises the constructor's errors for a collector that does not fit what goes with it."""
    if isinstance(replay_buffer, OfflineToOnlineReplayBuffer) != (collector is not None):
        raise TypeError(
            "a collector and an OfflineToOnlineReplayBuffer go together, got "
            f"{type(replay_buffer).__name__} and collector={type(collector).__name__}; "
            "offline, give the buffer's offline_buffer"
        )
    if optim_steps_per_batch < 1 or (collector is None and optim_steps_per_batch > 1):
        raise ValueError(
            f"optim_steps_per_batch is 1 offline and at least 1 with a collector, got "
            f"{optim_steps_per_batch}"
        )
