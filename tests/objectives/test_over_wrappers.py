"""`over=` under the usual launchers' wrappers, where these are installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.distributed.gloo import cut, run_ranks
from tests.objectives.cases import batch, gaussian_actor
from torchrl_drpo import DRPOLoss

N, STEPS = 24, 10


def _loss(over: Any = None) -> nn.Module:
    torch.manual_seed(3)
    return DRPOLoss(gaussian_actor(), over=over)


def _environment(rank: int, size: int) -> None:
    """What torchrun would have said, of the group that is there already."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true",
    )  # fmt: skip


def _steps(loss: nn.Module, optimizer: Any, backward: Any, rank: int, size: int) -> Tensor:
    told = []
    for step in range(STEPS):
        out = loss(batch(gaussian_actor(), N, seed=step)[cut(N, size, step)[rank]])
        optimizer.zero_grad()
        backward(out["loss_actor"])
        optimizer.step()
        told.append([out[key].item() for key in ("loss_actor", "kappa", "threshold")])
    return torch.tensor(told, dtype=torch.float64)


def _accelerated(rank: int, size: int) -> Tensor:
    from accelerate import Accelerator

    _environment(rank, size)
    accelerator = Accelerator(cpu=True)
    loss = _loss(dist.group.WORLD)
    wrapped, optimizer = accelerator.prepare(loss, torch.optim.Adam(loss.parameters(), 1e-2))
    return _steps(wrapped, optimizer, accelerator.backward, rank, size)


def _fabricated(rank: int, size: int) -> Tensor:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    _environment(rank, size)
    fabric = Fabric(
        accelerator="cpu", devices=size, strategy="ddp", plugins=[TorchElasticEnvironment()]
    )
    fabric.launch()
    loss = _loss(dist.group.WORLD)
    wrapped, optimizer = fabric.setup(loss, torch.optim.Adam(loss.parameters(), 1e-2))
    return _steps(wrapped, optimizer, fabric.backward, rank, size)


@pytest.mark.parametrize(
    ("package", "train"), [("accelerate", _accelerated), ("lightning_fabric", _fabricated)]
)
def test_a_wrapped_loss_trains_as_on_one_process(package: str, train: Any, tmp_path: Path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    alone = _loss()
    want = _steps(alone, torch.optim.Adam(alone.parameters(), 1e-2), Tensor.backward, 0, 1)
    for found in run_ranks(train, 2, tmp_path):
        torch.testing.assert_close(found[:, 0], want[:, 0], rtol=1e-6, atol=1e-6)
        assert torch.equal(found[:, 1:], want[:, 1:])
