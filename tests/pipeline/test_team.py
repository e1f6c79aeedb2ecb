"""A training run on several ranks: the run of one process, killed and resumed on any number."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer

from tests.distributed.gloo import run_ranks
from torchrl_drpo import DRPOLoss, make_catalogue_actor, make_gaussian_actor
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.policies.catalogue import catalogue_policy

ROWS, V, STEPS, SAVED = 200, 41, 12, 5
KINDS = ("gaussian", "catalogue", "fsdp", "sharded")


def _buffer(kind: str, seed: int = 0) -> TensorDictReplayBuffer:
    g = torch.Generator().manual_seed(7)
    rows = {
        "row": torch.arange(ROWS),
        "observation": torch.randn(ROWS, 3, generator=g),
        "action": torch.randn(ROWS, 2, generator=g),
        "next": {"reward": (torch.rand(ROWS, 1, generator=g) * 30).floor() / 30},
    }
    if kind not in ("gaussian", "fsdp"):
        rows["observation"] = {"history": torch.randint(-1, V, (ROWS, 3), generator=g)}
        rows["action"] = torch.randint(0, V, (ROWS,), generator=g)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(ROWS),
        sampler=SamplerWithoutReplacement() if kind == "catalogue" else None,
        generator=torch.Generator().manual_seed(seed),
    )
    buffer.extend(TensorDict(rows, [ROWS]))
    return buffer


def _actor(kind: str, mesh: Any) -> Any:
    torch.manual_seed(3)
    if kind in ("gaussian", "fsdp"):
        actor = make_gaussian_actor(3, 2, hidden=(8,))
        if kind == "fsdp" and mesh is not None:
            fully_shard(actor[0].module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        return actor
    actor = make_catalogue_actor(
        V, dim=4, history=3, hidden=(8,), mesh=mesh if kind == "sharded" else None
    )
    policy, g = catalogue_policy(actor), torch.Generator().manual_seed(1)
    shards = policy.shards
    own = slice(0, V) if shards is None else slice(shards.low, shards.high)
    with torch.no_grad():
        for parameter in policy.encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
        policy.items.copy_(torch.randn(V, 4, generator=g)[own])
    return actor


def _trainer(kind: str, steps: int, path: Any = None, mesh: Any = None, **more: Any) -> Any:
    loss = DRPOLoss(_actor(kind, mesh), ties="first", over=mesh, functional=kind != "fsdp")
    config = TrainerConfig(
        steps=steps, batch_size=21, learning_rate=1e-2, log_every=1, checkpoint_every=SAVED,
        max_grad_norm=0.3,
    )  # fmt: skip
    return OfflineTrainer(loss, _buffer(kind), config, checkpoint=path, mesh=mesh, **more)


def _curve(trainer: Any) -> list[list[float]]:
    told = trainer.history.training
    return [[value for _, value in told[name]] for name in ("loss_actor", "kappa", "threshold")]


def _train(rank: int, size: int, folder: str, steps: int, dies: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        drawn: list[Tensor] = []

        def follow(
            step: int,
            batch: TensorDictBase,
            out: TensorDictBase,
            seen: Any = drawn,
            last: bool = kind == KINDS[-1],
        ) -> None:
            seen.append(batch["row"])
            if last and step == dies and rank == 1:
                os._exit(9)

        spoken: list[int] = []
        trainer = _trainer(
            kind, steps, f"{folder}/{kind}", dist.group.WORLD,
            after_step=[follow], progress=lambda step, _, said=spoken: said.append(step),
        )  # fmt: skip
        try:
            trainer.run()
        except RuntimeError:
            if dies is None:
                raise
        found[kind] = {"curve": _curve(trainer), "drawn": drawn, "spoken": spoken}
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The curves and the drawn rows of one process."""
    found = {}
    for kind in KINDS:
        drawn: list[Tensor] = []
        trainer = _trainer(kind, STEPS, after_step=[lambda s, b, o, d=drawn: d.append(b["row"])])
        trainer.run()
        found[kind] = {"curve": _curve(trainer), "drawn": drawn}
    return found


def _is_the_run(ranks: list[Any], alone: dict[str, Any], start: int) -> None:
    for kind in KINDS:
        want = alone[kind]
        for rank, found in enumerate(ranks):
            loss, kappa, threshold = found[kind]["curve"]
            told, expected = torch.tensor(loss), torch.tensor(want["curve"][0])
            assert ((told - expected).abs() / expected.abs().clamp_min(1)).max() <= 1e-6
            assert [kappa, threshold] == want["curve"][1:]
            assert found[kind]["spoken"] == (list(range(start + 1, STEPS + 1)) if rank == 0 else [])
        for step in range(start, STEPS):
            drawn = torch.cat([found[kind]["drawn"][step - start] for found in ranks])
            assert torch.equal(drawn, want["drawn"][step])


def test_two_ranks_run_the_run_of_one_process(tmp_path: Path, alone: dict[str, Any]):
    _is_the_run(run_ranks(_train, 2, tmp_path, str(tmp_path), STEPS, None), alone, 0)
    files = sorted(p.name for p in (tmp_path / "sharded").iterdir())
    assert files == [
        "index.json",
        *(f"step{STEPS:09d}-{part}.safetensors" for part in (
            "00000-of-00002", "00001-of-00002", "common"
        )),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_lost_a_rank_goes_on_with_any_number(
    size: int, tmp_path: Path, alone: dict[str, Any]
):
    found = run_ranks(_train, 2, tmp_path, str(tmp_path), STEPS, SAVED + 2, lost=1)
    assert len(found[0]["sharded"]["curve"][0]) < STEPS
    for kind in KINDS[:-1]:  # these had finished
        index = json.loads((tmp_path / kind / "index.json").read_text())
        assert index["plain"]["step"] == STEPS
    index = json.loads((tmp_path / "sharded" / "index.json").read_text())
    assert index["plain"]["step"] == SAVED
    for kind in KINDS[:-1]:  # as if they had been stopped there as well
        shutil.rmtree(tmp_path / kind)
    run_ranks(_train, 2, tmp_path, str(tmp_path), SAVED, None)
    _is_the_run(run_ranks(_train, size, tmp_path, str(tmp_path), STEPS, None), alone, SAVED)


def _refusals(rank: int, size: int, folder: str) -> list[str]:
    told = []
    loss = DRPOLoss(make_gaussian_actor(3, 2), over=dist.group.WORLD)
    with pytest.raises(ValueError, match="seed all alike") as error:
        OfflineTrainer(loss, _buffer("gaussian", rank), TrainerConfig(), mesh=dist.group.WORLD)
    told.append(str(error.value))
    path = Path(folder) / "state"
    if rank == 0:
        path.write_bytes(b"of one process")
    dist.barrier()
    with pytest.raises(ValueError, match="no state of several ranks"):
        _trainer("gaussian", 2, path, dist.group.WORLD)
    trainer = _trainer("gaussian", 1, None, dist.group.WORLD)
    with pytest.raises(ValueError, match="the state of one process"):
        trainer.save(path)
    with pytest.raises(ValueError, match="cannot be shared by 2 ranks"):
        trainer.buffer.sample(1)
    return told


def test_what_ranks_cannot_share_is_refused(tmp_path: Path):
    run_ranks(_refusals, 2, tmp_path, str(tmp_path))
