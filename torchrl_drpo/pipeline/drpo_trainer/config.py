"""`DRPOTrainerConfig`: a trainer from a Hydra config, as TorchRL's own trainers have it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torchrl.objectives.common import LossModule

from torchrl_drpo.objectives import DRPOLoss
from torchrl_drpo.pipeline.config.trainer import TrainerConfig

from .trainer import DRPOTrainer

# Hydra's structured configs want plain types: no Literal, no unions with str.


@dataclass
class DRPOTrainerConfig:
    """Hydra configuration of :class:`DRPOTrainer`; ``trainer: drpo`` in Hydra's config store.

    Needs nothing to be imported; ``hydra-core`` to be instantiated, which makes the parts that have
    a ``_target_``.

    Attributes:
        replay_buffer: the log, as ``{_target_: torchrl_drpo.data.load_log, name: ...}``.
        actor_network: the policy, which a ``loss`` that is ``_partial_`` gets; a ``DRPOLoss`` of it
            is trained where no loss is given.
        loss: a LossModule, or what makes one of the actor: ``{_target_: torchrl_drpo.DRPOLoss,
            _partial_: true, kappa: 0.1}``.
        optimizer: or what makes one of the loss's parameters, a ``_partial_``.

    The others are those of :class:`DRPOTrainer` and
    :class:`~torchrl_drpo.pipeline.config.trainer.TrainerConfig`, with their defaults.
    """

    replay_buffer: Any
    actor_network: Any = None
    loss: Any = None
    steps: int = 5_000
    batch_size: int = 320
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    warm_up: int = 0
    decay: str = "constant"
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 1_000
    collector: Any = None
    optim_steps_per_batch: int = 1
    anneal_steps: int | None = None
    optimizer: Any = None
    logger: Any = None
    evaluate: Any = None
    checkpoint: str | None = None
    seed: int | None = None
    progress_bar: bool = False

    _target_: str = "torchrl_drpo.pipeline.drpo_trainer.config.make_drpo_trainer"


def make_drpo_trainer(
    *, replay_buffer: Any, actor_network: Any = None, loss: Any = None, **options: Any
) -> DRPOTrainer:
    """What Hydra calls with the parts of a :class:`DRPOTrainerConfig` that it has made.

    Raises:
        ValueError: for no loss and no actor, or an actor beside a finished loss.
    """
    if isinstance(loss, LossModule):
        if actor_network is not None:
            raise ValueError("the loss is finished: give it _partial_: true, or no actor_network")
    elif actor_network is None:
        raise ValueError("give actor_network, or a loss that has its own")
    else:
        loss = (DRPOLoss if loss is None else loss)(actor_network)
    collector, optimizer = options.pop("collector", None), options.pop("optimizer", None)
    numbers = {f.name: options.pop(f.name) for f in fields(TrainerConfig) if f.name in options}
    if callable(collector):
        collector = collector(policy=loss.actor_network)
    if callable(optimizer):
        optimizer = optimizer(p for p in loss.parameters() if p.requires_grad)
    return DRPOTrainer(
        loss,
        replay_buffer,
        TrainerConfig(**numbers),
        collector=collector,
        optimizer=optimizer,
        **options,
    )


try:
    from hydra.core.config_store import ConfigStore
except ImportError:  # Hydra is not needed to train
    pass
else:
    ConfigStore.instance().store(group="trainer", name="drpo", node=DRPOTrainerConfig)
