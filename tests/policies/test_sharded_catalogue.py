"""A catalogue actor whose table is shared out: the same training, and no rank holds the table."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.gloo import cut, run_ranks
from torchrl_drpo import DRPOLoss, RepulsiveLoss, make_catalogue_actor
from torchrl_drpo.policies.catalogue import catalogue_policy

V, D, L, N, STEPS = 103, 8, 4, 40, 20
OBJECTIVES: dict[str, Callable[..., nn.Module]] = {"drpo": DRPOLoss, "repulsive": RepulsiveLoss}
#: Objective, whether histories read the softmax's table, and what is wrapped.
CASES = (
    ("drpo", True, "ddp loss"),
    ("drpo", True, "ddp functional loss"),
    ("drpo", True, "ddp encoder"),
    ("drpo", True, "fsdp encoder"),
    ("drpo", False, "ddp loss"),
    ("repulsive", True, "ddp functional loss"),
)


def _batch(step: int) -> TensorDict:
    g = torch.Generator().manual_seed(step)
    return TensorDict(
        {
            "observation": {"history": torch.randint(-1, V, (N, L), generator=g)},
            "action": torch.randint(0, V, (N,), generator=g),
            "next": {"reward": (torch.rand(N, 1, generator=g) * 20).floor() / 20},
        },
        [N],
    )


def _actor(tied: bool, mesh: Any = None) -> nn.Module:
    torch.manual_seed(1)
    actor = make_catalogue_actor(V, dim=D, history=L, hidden=(16,), mesh=mesh, tie_embeddings=tied)
    policy, g = catalogue_policy(actor), torch.Generator().manual_seed(8)
    rows = slice(0, V) if mesh is None else slice(policy.shards.low, policy.shards.high)
    with torch.no_grad():  # the same start with a mesh and without
        for part in policy.encoder.parameters():
            part.copy_(torch.randn(part.shape, generator=g) * 0.3)
        for name in ("items", "bias", *(() if tied else ("history_items",))):
            table = getattr(policy, name)
            table.copy_(torch.randn(V, *table.shape[1:], generator=g)[rows] * 0.3)
    return actor


def _trained(loss: nn.Module, own: Callable[[int], slice]) -> Tensor:
    optimizer, told = torch.optim.Adam(loss.parameters(), 1e-2), []
    for step in range(STEPS):
        out = loss(_batch(step)[own(step)])
        optimizer.zero_grad()
        out["loss_actor"].backward()
        optimizer.step()
        told.append([out[k].item() for k in ("loss_actor", "kappa") if k in out.keys()])  # noqa: SIM118
    return torch.tensor(told, dtype=torch.float64)


def _train_on_ranks(rank: int, size: int) -> dict[str, Tensor]:
    mesh, found = init_device_mesh("cpu", (size,)), {}

    def own(step: int) -> slice:  # in some steps one rank has no rows
        return cut(N, size, step)[rank] if step % 5 else (slice(0, N), slice(N, N))[rank]

    for name, tied, wrap in CASES:
        actor = _actor(tied, mesh)
        policy = catalogue_policy(actor)
        if wrap == "fsdp encoder":
            fully_shard(policy.encoder, mesh=mesh)
        if wrap == "ddp encoder":
            policy.encoder = DistributedDataParallel(policy.encoder)
        loss = OBJECTIVES[name](actor, over=mesh, functional=wrap == "ddp functional loss")
        if wrap.endswith("loss"):
            loss = DistributedDataParallel(loss)
        told = _trained(loss, own)
        found[f"{name}/{tied}/{wrap}"] = [told, policy.items.detach()]
    return found


def test_training_with_a_sharded_table_is_training_with_a_whole_one(tmp_path: Path):
    ranks = run_ranks(_train_on_ranks, 2, tmp_path)
    for name, tied, wrap in CASES:
        actor = _actor(tied)
        told = _trained(OBJECTIVES[name](actor, functional=False), lambda step: slice(0, N))
        found = [rank[f"{name}/{tied}/{wrap}"] for rank in ranks]
        items = torch.cat([table for _, table in found])
        torch.testing.assert_close(
            items, catalogue_policy(actor).items.detach(), rtol=1e-4, atol=1e-5
        )
        for got, _ in found:
            torch.testing.assert_close(got[:, 0], told[:, 0], rtol=1e-6, atol=1e-6)
            assert torch.equal(got[:, 1:], told[:, 1:])  # kappa


def _tables(rank: int, size: int) -> list[Tensor]:
    torch.manual_seed(rank)  # ranks need not share a seed
    if rank == 0:
        torch.manual_seed(5)
    actor = make_catalogue_actor(3000, dim=4, mesh=dist.group.WORLD)
    return [catalogue_policy(actor).items.detach(), catalogue_policy(actor).bias.detach()]


def test_the_first_table_is_the_same_for_any_number_of_ranks(tmp_path: Path):
    (whole,) = run_ranks(_tables, 1, tmp_path)
    parts = run_ranks(_tables, 2, tmp_path)
    assert torch.equal(torch.cat([p[0] for p in parts]), whole[0])
    assert torch.equal(torch.cat([p[1] for p in parts]), whole[1])
    assert whole[0].std().item() == pytest.approx(0.5, rel=0.05)  # D ** -0.5
    assert len(whole[0].unique(dim=0)) == 3000  # no block repeats another


MIB = 2**20
BIG, WIDE, ROWS = 400_000, 64, 32


def _resident() -> float:
    """MiB that are held: what malloc keeps of freed blocks (below 32 MiB it may) goes first."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MIB


def _step(num_items: int, rank: int) -> nn.Module:
    actor = make_catalogue_actor(num_items, dim=WIDE, history=3, mesh=dist.group.WORLD)
    loss = DRPOLoss(actor, kappa=0.5, over=dist.group.WORLD)
    g = torch.Generator().manual_seed(rank)
    rows = {
        "observation": {"history": torch.randint(0, num_items, (ROWS, 3), generator=g)},
        "action": torch.randint(0, num_items, (ROWS,), generator=g),
        "next": {"reward": torch.rand(ROWS, 1, generator=g)},
    }
    loss(TensorDict(rows, [ROWS]))["loss_actor"].backward()
    return loss


def _memory(rank: int, size: int) -> float:
    _step(100, rank)  # whatever a first step brings into memory for good
    before = _resident()
    loss = _step(BIG, rank)
    grown = _resident() - before
    assert loss.actor_network_params is not None
    return grown


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("size", [2, *(pytest.param(r, marks=pytest.mark.slow) for r in (1, 4))])
def test_no_rank_holds_the_table(size: int, tmp_path: Path):
    table_and_gradient = 2 * BIG * (WIDE + 1) * 4 / MIB
    for grown in run_ranks(_memory, size, tmp_path):
        assert grown == pytest.approx(table_and_gradient / size, abs=20)
