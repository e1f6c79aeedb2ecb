"""The ranks that share a training run: draws, gradients and the state of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchrl.data import ReplayBuffer
from torchrl.objectives.common import LossModule

from torchrl_drpo.data.samplers.shared_draws import SharedDraws
from torchrl_drpo.distributed.checkpoint import is_sharded, load_sharded, save_sharded
from torchrl_drpo.distributed.group import Over, Ranks
from torchrl_drpo.distributed.training import (
    check_alike,
    clip_grad_norm,
    data_parallel,
    rows_of_shards,
    share_out,
    whole_state,
)


class Team:
    """One rank's view of them.

    Args:
        mesh: the ranks.
        loss_module: what is trained.
        buffer: where rows are drawn; its sampler becomes one that keeps this rank's own.
        parameters: what the optimiser moves, in its order.

    Attributes:
        ranks: the ranks.
        forward: calls the loss so that gradients are averaged over ranks.

    Raises:
        ValueError: unless every rank's buffer has a generator in the same state.
    """

    def __init__(
        self,
        mesh: Over,
        loss_module: LossModule,
        buffer: ReplayBuffer,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self.ranks = Ranks(mesh)
        self.forward = data_parallel(loss_module, self.ranks)
        self._module, self._parameters = loss_module, parameters
        self._rows = rows_of_shards(loss_module, parameters)
        generator = getattr(buffer, "_rng", None)
        if generator is not None:  # without one the trainer refuses the buffer
            check_alike("the replay buffer's generator", generator.get_state(), self.ranks)
        buffer.set_sampler(SharedDraws(buffer.sampler, self.ranks.rank, self.ranks.size))

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        """Bounds the norm of all gradients, those of other ranks' rows included."""
        clip_grad_norm(parameters, max_norm, self.ranks)

    def save(self, path: str | os.PathLike[str], state: dict[str, Any], step: int) -> None:
        """Writes a trainer's state; every rank calls it.

        Raises:
            ValueError: for a file of one process at the same place.
        """
        if Path(path).is_file():
            raise ValueError(
                f"{path} is the state of one process, and several ranks keep a folder; resume in "
                "one process, or choose another place"
            )
        save_sharded(path, whole_state(state), self._rows, self.ranks, f"step{step:09d}")

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The state that any number of ranks wrote, with this rank's rows of the tables.

        Raises:
            ValueError: for anything else.
        """
        if not is_sharded(path):
            raise ValueError(
                f"{path} is no state of several ranks; resume it in one process, or choose another "
                "place"
            )
        state = load_sharded(path, self._rows)
        return share_out(state, self._module, self._parameters)
