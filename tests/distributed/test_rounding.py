"""What several ranks differ from one process by is the order of sums, and nothing else.

Sums of floats depend on their order, and the order on the number of ranks. Training feeds the
differences back, and a metric that counts whose item stands first moves wherever two items nearly
tie, by whole users. The same run in float64, whose rounding is 2^29 times finer, stays together as
many times better: so it is rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.gloo import cut, run_ranks
from torchrl_drpo import BehaviorCloningLoss, make_catalogue_actor

V, N, L, STEPS = 60, 64, 5, 120
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _batch(step: int) -> TensorDict:
    g = torch.Generator().manual_seed(step % 4)  # it sees every row again: it can learn them
    history = torch.randint(0, V, (N, L), generator=g)
    action = (history[:, -1] + torch.randint(0, 2, (N,), generator=g)) % V
    reward = torch.rand(N, 1, generator=g)
    rows = {"observation": {"history": history}, "action": action, "next": {"reward": reward}}
    return TensorDict(rows, [N])


def _train(dtype: torch.dtype, rank: int, size: int) -> dict[str, Tensor]:
    """Losses of all steps, the first gradient, and the scores that the policy ends with."""
    torch.manual_seed(3)
    actor = make_catalogue_actor(V, dim=8, history=L, hidden=(16,)).to(dtype)
    over = dist.group.WORLD if size > 1 else None
    loss: nn.Module = BehaviorCloningLoss(actor, over=over, functional=False)
    wrapped = DistributedDataParallel(loss) if size > 1 else loss
    optimizer, losses, first = torch.optim.Adam(loss.parameters(), 1e-2), [], []
    for step in range(STEPS):
        out = wrapped(_batch(step)[cut(N, size, step)[rank]])
        optimizer.zero_grad()
        out["loss_actor"].backward()
        if step == 0:
            first = [p.grad.flatten().clone() for p in loss.parameters() if p.grad is not None]
        optimizer.step()
        losses.append(out["loss_actor"].detach())
    with torch.no_grad():
        logits = actor.get_dist(_batch(STEPS)).logits
    return {"loss": torch.stack(losses), "gradient": torch.cat(first), "logits": logits}


def _on_ranks(rank: int, size: int) -> dict[str, Any]:
    return {name: _train(dtype, rank, size) for name, dtype in DTYPES.items()}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_differs_from_one_process_is_rounding(size: int, tmp_path: Path):
    ranks = run_ranks(_on_ranks, size, tmp_path)
    gaps: dict[str, dict[str, float]] = {}
    for name, dtype in DTYPES.items():
        alone = _train(dtype, 0, 1)
        assert alone["loss"][-1] < 0.9 * alone["loss"][0]  # it learns: there is something to drift
        gaps[name] = {
            key: max(float((r[name][key] - want).abs().max() / want.abs().max()) for r in ranks)
            for key, want in alone.items()
        }
    assert gaps["float32"]["gradient"] < 1e-6  # before anything could grow
    assert gaps["float64"]["gradient"] < 1e-14
    assert gaps["float64"]["loss"] < 1e-12
    assert gaps["float64"]["logits"] < 1e-11
    assert gaps["float32"]["loss"] < 1e-5
