"""`over=`: every objective on two ranks is the objective on one process with all rows."""

from __future__ import annotations

import copy
import warnings
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
from torchrl.objectives.common import LossModule

import torchrl_drpo as drpo
from tests.distributed.fake import group_of
from tests.distributed.gloo import cut, run_ranks
from tests.objectives.cases import (
    LOSSES,
    SAMPLING,
    batch,
    catalogue_actor,
    gaussian_actor,
    gradients,
    run,
    total,
)

N = 24
#: Those of LOSSES, and forms that ask for other numbers of the batch.
MORE: dict[str, Callable[..., LossModule]] = {
    "minimum": lambda a, **o: drpo.RepulsiveLoss(a, baseline="min", normalize=True, **o),
    "exponential first": lambda a, **o: drpo.DRPOLoss(
        a, kappa=0.3, weighting="exponential", temperature=0.5, ties="first", **o
    ),
    "linear groups": lambda a, **o: drpo.DRPOLoss(a, kappa=0.5, group_key="user", **o),
    "negatives": lambda a, **o: drpo.DRPOLoss(
        a, kappa=0.4, negative_key="dislike", negative_scale=0.3, weighting="uniform", **o
    ),
}
GROUPED = ("drpo groups", "linear groups", "ecpo")
FORMS = {**{k: v for k, v in LOSSES.items() if k not in SAMPLING}, **MORE}


def _data(actor: nn.Module, what: str) -> TensorDict:
    data = batch(actor, N, seed=5).apply(lambda x: x.double() if x.is_floating_point() else x)
    if what == "mask":
        data["mask"] = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.7
    if what == "priority":
        data["priority_weight"] = torch.rand(N, generator=torch.Generator().manual_seed(2)).double()
    return data


def _make(name: str, what: str, **options: Any) -> tuple[LossModule, TensorDict]:
    torch.manual_seed(3)
    actor = gaussian_actor().double()
    loss = FORMS[name](actor, functional=False, **options).double()
    if what == "mask":
        loss.loss_mask_key = "mask"
    return loss, _data(actor, what)


def _outcome(loss: LossModule, data: TensorDict) -> dict[str, Tensor]:
    """Outputs, gradients, and the state that the next step would use."""
    out = run(loss, data)
    total(out).backward()
    found = {f"out/{k}": v.detach() for k, v in out.items()}
    found |= {f"grad/{k}": v for k, v in gradients(loss).items()}
    return found | {f"buffer/{k}": v.clone() for k, v in loss.named_buffers() if "net" not in k}


def _one_batch_on_ranks(rank: int, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, name in enumerate(FORMS):
        for what in ("plain", "mask", "priority"):
            loss, data = _make(name, what, over=dist.group.WORLD)
            own = cut(N, size, number)[rank]
            if name in GROUPED:  # all users on one rank, the other has none
                own = slice(0, N if rank == size - 1 else 0)
            found[f"{name}/{what}"] = _outcome(loss, data[own])
    return found


def test_every_objective_has_the_numbers_of_all_rows(tmp_path: Path):
    ranks = run_ranks(_one_batch_on_ranks, 2, tmp_path)
    for key in ranks[0]:
        name, what = key.split("/")
        loss, data = _make(name, what)
        expected = _outcome(loss, data)
        each = [found[key] for found in ranks]
        for entry, want in expected.items():
            got = [mine[entry] for mine in each]
            if entry.startswith("grad/"):
                got = [(got[0] + got[1]) / 2]
            for value in got:
                assert value.dtype == want.dtype, f"{key} {entry}"
                torch.testing.assert_close(
                    value,
                    want,
                    rtol=1e-11,
                    atol=1e-11,
                    msg=lambda m, e=entry, k=key: f"{k} {e}: {m}",
                )


STEPS = 50


def _step_data(step: int) -> TensorDict:
    data = batch(gaussian_actor(), N, seed=step)
    data["next", "reward"] = (data["next", "reward"] * 4).round() / 4  # many ties
    return data


def _train(loss: nn.Module, rows: Callable[[int], slice]) -> Tensor:
    """Loss, kappa and threshold of every step of Adam."""
    optimizer, told = torch.optim.Adam(loss.parameters(), 1e-2), []
    for step in range(STEPS):
        out = loss(_step_data(step)[rows(step)])
        optimizer.zero_grad()
        out["loss_actor"].backward()
        optimizer.step()
        told.append([out[k].item() for k in ("loss_actor", "kappa", "threshold")])
    return torch.tensor(told, dtype=torch.float64)


def _drpo(wrap: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    actor = gaussian_actor()
    if wrap == "fsdp":
        fully_shard(actor[0].module, mesh=init_device_mesh("cpu", (2,)))
    loss = drpo.DRPOLoss(actor, ties="first", functional=wrap == "ddp functional", **options)
    return DistributedDataParallel(loss) if "ddp" in wrap else loss


def _trained_on_ranks(rank: int, size: int) -> dict[str, Tensor]:
    def own(step: int) -> slice:  # in every tenth step one rank has no rows
        cuts = cut(N, size, step) if step % 10 else [slice(0, N), *[slice(N, N)] * (size - 1)]
        return cuts[rank]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*process group")  # nothing is rank-local here
        mesh = init_device_mesh("cpu", (size,))
        return {w: _train(_drpo(w, over=mesh), own) for w in ("ddp", "ddp functional", "fsdp")}


def test_fifty_steps_with_an_adaptive_kappa_are_those_of_one_process(tmp_path: Path):
    alone = _train(_drpo("alone"), lambda step: slice(0, N))
    assert alone[:, 1].unique().numel() > 5  # kappa moves
    for found in run_ranks(_trained_on_ranks, 2, tmp_path):
        for told in found.values():
            torch.testing.assert_close(told[:, 0], alone[:, 0], rtol=1e-6, atol=1e-6)
            assert torch.equal(told[:, 1:], alone[:, 1:])


def _trajectories(rank: int, size: int) -> list[Any]:
    """Trajectory level with padding, on the catalogue; all rows of one rank are masked out."""
    data = batch(catalogue_actor(), 6, 3, seed=4)
    data["mask"] = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    data["mask"][:3] = False
    own = slice(3 * rank, 3 * rank + 3) if size > 1 else slice(0, 6)
    found = []
    for kind in (drpo.DRPOLoss, drpo.RepulsiveLoss):
        torch.manual_seed(3)
        loss = kind(catalogue_actor(), level="trajectory", over=dist.group.WORLD)
        loss.loss_mask_key = "mask"
        out = loss(data[own])
        out["loss_actor"].backward()
        found += [out["loss_actor"].detach(), *gradients(loss).values()]
    return found


def test_a_rank_whose_rows_are_all_masked_out(tmp_path: Path):
    first, second = run_ranks(_trajectories, 2, tmp_path)
    (alone,) = run_ranks(_trajectories, 1, tmp_path)
    for a, b, want in zip(first, second, alone, strict=True):
        torch.testing.assert_close((a + b) / 2, want, rtol=1e-5, atol=1e-6)


def test_what_over_takes():
    actor = gaussian_actor()
    with pytest.raises(TypeError, match="process group or a device mesh, got int"):
        drpo.DRPOLoss(actor, over=2)
    with group_of(4):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "items"))
        loss = drpo.DRPOLoss(actor, over=mesh["data"])
        assert copy.deepcopy(loss)._whole.ranks.size == 2
        assert drpo.DRPOLoss(actor, over=mesh)._whole.ranks.size == 4
        assert loss.over is mesh["data"].get_group()
        fused = drpo.DRPOLoss(actor, over=mesh, path="fused")
        with pytest.raises(ValueError, match=r"path=.fused. is for .*or over="):
            fused(batch(actor, 4))
        fused.over = None
        assert not fused._whole.among_ranks
        with pytest.raises(ValueError, match=r"empty batch.*pass over="):
            drpo.DRPOLoss(actor)(batch(actor, 4)[:0])
    with group_of(8):
        mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("a", "b", "c"))
        with pytest.raises(ValueError, match=r"mesh of 2 dimensions.*mesh\['data'\]"):
            drpo.DRPOLoss(actor, over=mesh["a", "b"])
