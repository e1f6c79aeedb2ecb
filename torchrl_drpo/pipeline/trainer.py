"""One training loop for every offline objective: sample, loss, step; log, evaluate, checkpoint.

It is TorchRL's parts joined together: a replay buffer with its own generator, a LossModule, a
torch optimiser, TorchRL loggers. Nothing is read back from the device between two log lines. A run
that is killed resumes from its last checkpoint and ends with the same parameters, bit for bit.

In TorchRL's own ``Trainer`` the same run is :class:`~torchrl_drpo.DRPOTrainer`. This loop, which
the commands use, does not stand on it: TorchRL's reads the gradient's norm back at every step,
counts frames where a run is a number of steps, knows of no ranks that share a batch, and writes a
folder without digests where a run here is one sealed file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.objectives.common import LossModule
from torchrl.record.loggers.common import Logger

from torchrl_drpo.files import check_seal, replacing, seal
from torchrl_drpo.pipeline.config.trainer import TrainerConfig

if TYPE_CHECKING:
    from torchrl_drpo.distributed.group import Over
    from torchrl_drpo.pipeline.team import Team

#: Raised whenever the layout of a training checkpoint changes.
CHECKPOINT_VERSION = 1

Evaluate = Callable[[int], dict[str, float]]
Progress = Callable[[int, dict[str, float]], None]
AfterStep = Callable[[int, TensorDictBase, TensorDictBase], None]


@dataclass
class History:
    """What a run reported, as plain numbers.

    Attributes:
        training: entries of the loss's output by name: ``[(step, value), ...]``.
        evaluation: metrics by name: ``[(step, value), ...]``.
    """

    training: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    evaluation: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def last(self, metric: str) -> float:
        """The latest value of an evaluation metric."""
        return self.evaluation[metric][-1][1]


class OfflineTrainer:
    """Trains a LossModule on a replay buffer.

    Args:
        loss_module: any TorchRL loss; every ``loss_*`` entry of its output is minimised.
        buffer: a replay buffer made with its own ``generator``, without which a resumed run could
            not draw the batches that the interrupted one would have drawn. With ``checkpoint``
            none that prefetches, for the same reason.
        config: the numbers of the run.

    Keyword Args:
        evaluate: called with the step under ``torch.no_grad``; returns metrics.
        stop: asked after each step; the run ends where it says so. What it remembers belongs into
            ``extra_state``.
        loggers: TorchRL loggers (``CSVLogger``, ``TensorboardLogger``, ...).
        progress: called at every log line with the step and the values of that line.
        after_step: called after each optimiser step with the step, the batch and the loss's
            output: target networks, monitors, schedules.
        checkpoint: file for the training state; an existing one is resumed from. With ``mesh`` a
            folder, which any number of ranks can resume from.
        extra_state: further objects with ``state_dict``/``load_state_dict`` to save, by name.
        mesh: the ranks that train together, a device mesh or a process group: ``batch_size`` rows
            are drawn for all of them from one stream, of which each reads its own; gradients are
            averaged over ranks; rank 0 speaks to ``loggers`` and ``progress``. Make the loss with
            the same ranks as ``over``, and every rank's buffer with a generator of the same seed:
            the run is then that of one process on the same batches, within rounding.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl_drpo import BehaviorCloningLoss, make_gaussian_actor
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(64), generator=torch.Generator()
        ... )
        >>> rows = {"observation": torch.randn(64, 10), "action": torch.randn(64, 4)}
        >>> _ = buffer.extend(TensorDict(rows, batch_size=[64]))
        >>> loss = BehaviorCloningLoss(make_gaussian_actor(state_dim=10, action_dim=4))
        >>> config = TrainerConfig(steps=20, batch_size=8, log_every=10)
        >>> history = OfflineTrainer(loss, buffer, config).run()
        >>> [step for step, _ in history.training["loss_actor"]]
        [10, 20]
    """

    def __init__(
        self,
        loss_module: LossModule,
        buffer: ReplayBuffer,
        config: TrainerConfig,
        *,
        evaluate: Evaluate | None = None,
        stop: Callable[[], bool] | None = None,
        loggers: Sequence[Logger] = (),
        progress: Progress | None = None,
        after_step: Sequence[AfterStep] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        extra_state: dict[str, Any] | None = None,
        mesh: Over | None = None,
    ) -> None:
        self.loss_module = loss_module
        self.buffer = buffer
        self.config = config
        self.evaluate = evaluate
        self.stop = stop
        self.loggers = list(loggers)
        self.progress = progress
        self.after_step = list(after_step)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.extra_state = extra_state or {}
        self.step = 0
        self.history = History()
        self.optimizer = make_optimizer(loss_module, config)
        self.parameters = parameters = self.optimizer.param_groups[0]["params"]
        self._team = None if mesh is None else _team(mesh, loss_module, buffer, parameters)
        self._forward = loss_module if self._team is None else self._team.forward
        if self._team is not None and self._team.ranks.rank > 0:
            self.loggers, self.progress = [], None
        if self.checkpoint is not None and getattr(buffer, "_prefetch", False):
            raise ValueError(
                "the replay buffer draws batches ahead (prefetch), which a checkpoint does not "
                "hold: a run that resumes from it skips them. Make the buffer without prefetch, or "
                "train without checkpoint="
            )
        if self.checkpoint is not None and self.checkpoint.exists():
            self.load(self.checkpoint)

    def run(self, until: int | None = None) -> History:
        """Trains from wherever the run stands, and returns its history.

        Args:
            until: the last step; ``config.steps`` by default. The learning rate of every step is
                that of a run of ``config.steps``.
        """
        config = self.config
        steps = config.steps if until is None else min(until, config.steps)
        self.loss_module.train()
        while self.step < steps and not self._stops():
            batch = self.buffer.sample(config.batch_size)
            out = self.train_step(batch)
            self.step += 1
            for hook in self.after_step:
                hook(self.step, batch, out)
            last = self.step == steps
            if self.step % config.log_every == 0 or last:
                self._log(out)
            if self.evaluate is not None and (self.step % config.evaluate_every == 0 or last):
                self._evaluate()
            last = last or self._stops()
            if self.checkpoint is not None and (self.step % config.checkpoint_every == 0 or last):
                self.save(self.checkpoint)
        return self.history

    def _stops(self) -> bool:
        return self.stop is not None and self.stop()

    def train_step(self, batch: TensorDictBase) -> TensorDictBase:
        """One gradient step on a batch; returns the loss's output, still on the device."""
        out = self._forward(batch)
        loss = _total_loss(out)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.max_grad_norm is not None:
            clip = torch.nn.utils.clip_grad_norm_ if self._team is None else self._team.clip
            clip(self.parameters, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step + 1)
        self.optimizer.step()
        return out

    # -- reports --------------------------------------------------------------------------------

    def _log(self, out: TensorDictBase) -> None:
        values = {name: float(value) for name, value in out.detach().items() if value.numel() == 1}
        self._record(self.history.training, "train", values)
        if self.progress is not None:
            self.progress(self.step, values)

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.loss_module.eval()
        try:
            values = self.evaluate(self.step)
        finally:
            self.loss_module.train()
        self._record(self.history.evaluation, "evaluation", values)

    def _record(
        self, into: dict[str, list[tuple[int, float]]], group: str, values: dict[str, float]
    ) -> None:
        for name, value in values.items():
            into.setdefault(name, []).append((self.step, value))
            for logger in self.loggers:
                logger.log_scalar(f"{group}/{name}", value, step=self.step)

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, as tensors and plain numbers."""
        return {
            "version": CHECKPOINT_VERSION,
            "config": asdict(self.config),
            "step": self.step,
            "loss_module": self.loss_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.buffer.sampler.state_dict(),
            "generator": _generator_of(self.buffer).get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": asdict(self.history),
            "extra": {name: part.state_dict() for name, part in self.extra_state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the run that :meth:`state_dict` described.

        Raises:
            ValueError: for a state of another version, or of a run with other numbers.
        """
        if state.get("version") != CHECKPOINT_VERSION:
            raise ValueError(
                f"training checkpoint of version {state.get('version')}, this release reads "
                f"version {CHECKPOINT_VERSION}; train anew or use the release that wrote it"
            )
        check_same_run(state["config"], self.config)
        self.step = state["step"]
        self.loss_module.load_state_dict(state["loss_module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.sampler.load_state_dict(state["sampler"])
        _generator_of(self.buffer).set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = History(**state["history"])
        for name, part in self.extra_state.items():
            part.load_state_dict(state["extra"][name])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state; a crash while writing leaves what was there."""
        if self._team is not None:
            self._team.save(path, self.state_dict(), self.step)
            return
        with replacing(path) as file:
            torch.save(self.state_dict(), file)
            seal(file)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Reads a state written by :meth:`save`; nothing is unpickled.

        Raises:
            ValueError: for a file that is not such a state, is cut short, or does not fit.
        """
        if self._team is not None:
            self.load_state_dict(self._team.load(path))
            return
        try:
            check_seal(path)  # torch checks no digest: a flipped bit would be another policy
            state = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises several kinds for a damaged file
            raise ValueError(
                f"{path} is not a readable training checkpoint ({error}); delete it to start anew"
            ) from error
        self.load_state_dict(state)


def make_optimizer(loss_module: LossModule, config: TrainerConfig) -> torch.optim.Optimizer:
    """Adam over what a loss trains, with decoupled weight decay where there is any.

    Raises:
        ValueError: if nothing requires a gradient.
    """
    parameters = [p for p in loss_module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"{type(loss_module).__name__} has no parameter that requires grad")
    kind = torch.optim.AdamW if config.weight_decay > 0 else torch.optim.Adam
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def check_same_run(saved: Mapping[str, Any], config: TrainerConfig) -> None:
    """Checks that a checkpoint's numbers are those of the run that resumes it.

    Raises:
        ValueError: names the first that is not.
    """
    free = {"steps", "log_every", "evaluate_every", "checkpoint_every"}  # may be changed
    if config.decay != "constant":  # the rate of every step depends on the last one
        free.remove("steps")
    for name, value in asdict(config).items():
        before = saved.get(name, getattr(TrainerConfig, name))  # it may be older
        if name not in free and before != value:
            raise ValueError(
                f"the checkpoint was written with {name}={before!r}, this run "
                f"has {value!r}; resume with the same value or choose another folder"
            )


def _total_loss(out: TensorDictBase) -> Tensor:
    losses: Iterable[Tensor] = (v for k, v in out.items() if str(k).startswith("loss"))
    return sum(losses, start=torch.zeros((), device=out.device))


def _team(mesh: Over, *arguments: Any) -> Team:
    from torchrl_drpo.pipeline.team import Team  # not every torch has ranks

    return Team(mesh, *arguments)


def _generator_of(buffer: ReplayBuffer) -> torch.Generator:
    """The buffer's own generator; a run on the global one cannot be resumed exactly."""
    generator = getattr(buffer, "_rng", None)
    if generator is None:
        raise ValueError(
            "the replay buffer has no generator of its own, so its batches cannot be reproduced; "
            "make it with ReplayBuffer(..., generator=torch.Generator().manual_seed(seed))"
        )
    return generator
