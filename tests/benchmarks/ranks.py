"""What several ranks do and hold, measured with gloo: python -m tests.benchmarks.ranks --help.

    python -m tests.benchmarks.ranks --out results/ranks

At 1, 2 and 4 ranks on one machine: bytes and calls that the collectives were handed, against the
cost model; the memory of a rank's share of a table, its gradient and Adam's moments, against V / R
rows; the loss of every step of training with an adaptive kappa, against one process. What depends
on links and GPUs is not measured here: it is ``drpo cost``'s paper.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn

from tests.distributed.gloo import cut, run_ranks
from torchrl_drpo import DRPOLoss, make_catalogue_actor
from torchrl_drpo.distributed.categorical import ShardedCatalogueCategorical
from torchrl_drpo.distributed.cost import log_prob_bytes, selection_bytes
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.items import ItemShards
from torchrl_drpo.distributed.selection import select_top_over
from torchrl_drpo.policies.catalogue import catalogue_policy

SIZES = (1, 2, 4)
ROWS, WIDTH = 64, 64  # of all ranks together, scored; and of an item
ITEMS, MIB = 1_000_000, 2**20
V, D, L, N, STEPS = 1003, 16, 5, 96, 50


def _traffic(rank: int, size: int) -> dict[str, Tensor]:
    """Bytes and calls of a selection, and of a log-prob forward and backward."""
    ranks = Ranks(dist.group.WORLD)
    shards = ItemShards(ranks, V)
    hidden = torch.randn(ROWS // size, WIDTH, requires_grad=True)
    items = torch.randn(shards.high - shards.low, WIDTH, requires_grad=True)
    policy = ShardedCatalogueCategorical(hidden, items, shards=shards)
    seen = [(ranks.payload, ranks.calls)]

    def note() -> None:
        seen.append((ranks.payload, ranks.calls))

    select_top_over(ranks, torch.randn(ROWS // size), 0.3)
    note()
    value = policy.log_prob(torch.randint(0, V, (ROWS // size,))).sum()
    note()
    value.backward()
    note()
    return {"seen": torch.tensor(seen).diff(dim=0)}


def _held() -> float:
    """MiB of this process; what malloc keeps of freed blocks goes first."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MIB


def _memory(rank: int, size: int) -> dict[str, float]:
    """MiB that a rank's process grew by: table and gradient; with Adam's moments."""

    def step(items: int) -> tuple[nn.Module, torch.optim.Optimizer, float]:
        actor = make_catalogue_actor(items, dim=WIDTH, history=L, mesh=dist.group.WORLD)
        loss = DRPOLoss(actor, kappa=0.5, over=dist.group.WORLD)
        optimizer = torch.optim.Adam(loss.parameters(), foreach=False)
        loss(_batch(rank, items))["loss_actor"].backward()
        before = _held()
        optimizer.step()
        return loss, optimizer, before

    step(100)  # whatever a first step brings into memory for good
    before = _held()
    kept = step(ITEMS)
    return {"gradient": kept[2] - before, "adam": _held() - before}


def _batch(seed: int, items: int) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    rows = {
        "observation": {"history": torch.randint(0, items, (N, L), generator=g)},
        "action": torch.randint(0, items, (N,), generator=g),
        "next": {"reward": (torch.rand(N, 1, generator=g) * 50).floor() / 50},
    }
    return TensorDict(rows, [N])


def _train(rank: int, size: int, among: bool = True) -> dict[str, Tensor]:
    """Loss and kappa of every step; the table is shared out, rows come in uneven shares."""
    torch.manual_seed(0)
    group = dist.group.WORLD if among else None
    actor = make_catalogue_actor(V, dim=D, history=L, hidden=(32,), mesh=group)
    policy, g = catalogue_policy(actor), torch.Generator().manual_seed(1)
    rows = slice(0, V) if not among else slice(policy.shards.low, policy.shards.high)
    with torch.no_grad():
        for parameter in policy.encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.3)
        policy.items.copy_(torch.randn(V, D, generator=g)[rows] * 0.3)
        policy.bias.copy_(torch.randn(V, generator=g)[rows] * 0.3)
    loss: nn.Module = DRPOLoss(actor, over=group, ties="first", functional=False)
    wrapped = nn.parallel.DistributedDataParallel(loss) if among else loss
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    told = []
    for step in range(STEPS):
        out = wrapped(_batch(step, V)[cut(N, size, step)[rank]])
        optimizer.zero_grad()
        out["loss_actor"].backward()
        optimizer.step()
        told.append([out[key].item() for key in ("loss_actor", "kappa")])
    return {"told": torch.tensor(told, dtype=torch.float64)}


def measure(size: int, folder: Path) -> dict[str, Any]:
    """All figures of so many ranks; the worst rank's, where ranks differ."""
    seen = torch.stack([r["seen"] for r in run_ranks(_traffic, size, folder)]).max(0).values
    chosen, forward, backward = seen.tolist()
    paper = log_prob_bytes(ROWS, WIDTH, size)
    memory = run_ranks(_memory, size, folder)
    alone = _ALONE["told"]
    told = [r["told"] for r in run_ranks(_train, size, folder)]
    gap = max(float(((t - alone)[:, 0].abs() / alone[:, 0].abs().clamp_min(1)).max()) for t in told)
    share = ITEMS * (WIDTH + 1) * 4 / MIB / size
    return {
        "selection_bytes": chosen[0], "selection_bytes_on_paper": selection_bytes(size),
        "selection_calls": chosen[1],
        "log_prob_bytes": [forward[0], backward[0]], "log_prob_bytes_on_paper": list(paper),
        "log_prob_calls": [forward[1], backward[1]],
        "table_and_gradient_MiB": round(max(m["gradient"] for m in memory)),
        "table_and_gradient_MiB_on_paper": round(2 * share),
        "with_adam_MiB": round(max(m["adam"] for m in memory)),
        "with_adam_MiB_on_paper": round(4 * share),
        "worst_loss_gap": gap,
        "kappa_the_same_bits": all(torch.equal(t[:, 1], alone[:, 1]) for t in told),
    }  # fmt: skip


_ALONE: dict[str, Tensor] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/ranks"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    # In a process of its own: ranks are forked from one that never ran a backward pass.
    with tempfile.TemporaryDirectory() as folder:
        _ALONE.update(run_ranks(_alone, 1, Path(folder))[0])
        figures = {str(size): measure(size, Path(folder)) for size in SIZES}
    out.mkdir(parents=True, exist_ok=True)
    found = {"items": ITEMS, "width": WIDTH, "rows_scored": ROWS, "steps": STEPS, "ranks": figures}
    (out / "ranks.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(figures, indent=1))  # noqa: T201


def _alone(rank: int, size: int) -> dict[str, Tensor]:
    return _train(rank, size, among=False)


if __name__ == "__main__":
    main()
