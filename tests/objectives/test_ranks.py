"""Losses among ranks: nothing that trains another objective is silent."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torchrl.objectives.common import LossModule

import torchrl_drpo as drpo
from tests.distributed.fake import group_of
from tests.objectives.cases import LOSSES, ONE_EACH, batch, gaussian_actor, make, run, total

#: What each takes from a batch as a whole; nothing is told of the others.
FROM_THE_BATCH = {
    "bc": None,
    "drpo": "threshold, standard deviation, kappa",
    "drpo uniform": "threshold",
    "drpo exponential": "threshold, mean of the kept rows",
    "drpo kl": "normaliser",
    "adaptive bc": "threshold, kappa",
    "repulsive": "baseline",
    "repulsive taper": "baseline, standard deviation",
    "awr": "baseline, mean weight",
    "crr": None,
    "crr without critic": "baseline",
    "guided": "baseline, standard deviation",
}


@pytest.mark.parametrize("name", FROM_THE_BATCH)
def test_numbers_of_this_ranks_rows_are_told_of_once(name: str):
    numbers, data = FROM_THE_BATCH[name], batch(gaussian_actor(), 12)
    loss = make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(loss, data)  # alone
        with group_of(2):
            if numbers is not None:
                with pytest.warns(
                    UserWarning, match=f"process group of 2 ranks.* its {numbers} from"
                ):
                    run(loss, data)
            run(loss, data)
            run(make(name), data)  # another loss of the same process


def test_who_brings_advantages_takes_nothing_from_the_batch():
    data = batch(gaussian_actor(), 12).set("advantage", torch.randn(12))
    with group_of(2), warnings.catch_warnings():
        warnings.simplefilter("error")
        run(make("repulsive"), data)


@pytest.mark.parametrize("name", ["drpo", "repulsive"])
def test_compiled_whole_among_ranks(name: str):
    loss, data = make(name).eval(), batch(gaussian_actor(), 12)
    expected = run(loss, data)["loss_actor"]
    with group_of(2), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")  # dynamo has some of its own
        torch._dynamo.reset()
        out = run(torch.compile(loss, fullgraph=True, backend="eager"), data)
        torch.testing.assert_close(out["loss_actor"], expected)
    assert sum("process group of 2 ranks" in str(w.message) for w in seen) == 1


@pytest.mark.parametrize("name", ONE_EACH)
def test_parameters_are_named_as_any_modules_are(name: str):
    loss = make(name)
    expected = [
        (key, p)
        for key, p in nn.Module.named_parameters(loss, remove_duplicate=False)
        if not key.startswith("_target")
    ]
    found = list(loss.named_parameters(remove_duplicate=False))
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert all(a is b for (_, a), (_, b) in zip(found, expected, strict=True))
    assert list(dict(loss.named_parameters())) == list(dict(LossModule.named_parameters(loss)))
    assert [k for k, _ in loss.named_parameters("m")] == [
        f"m.{k}" for k, _ in loss.named_parameters()
    ]


SHARDED: dict[str, tuple[Callable[[nn.Module, LossModule], nn.Module], bool, str]] = {
    "the loss": (lambda actor, loss: loss, False, "given a BehaviorCloningLoss"),
    "the loss, functional": (lambda actor, loss: loss, True, "given a BehaviorCloningLoss"),
    "the actor": (lambda actor, loss: actor, False, "given a ProbabilisticActor"),
    "its TensorDictModule": (lambda actor, loss: actor[0], False, "given a TensorDictModule"),
    "the network, functional": (lambda actor, loss: actor[0].module, True, r"functional=True"),
}


@pytest.mark.parametrize("what", SHARDED)
def test_sharding_that_trains_wrongly_is_refused(what: str):
    choose, functional, message = SHARDED[what]
    with group_of(2):
        actor = gaussian_actor()
        loss = drpo.BehaviorCloningLoss(actor, functional=functional)
        fully_shard(choose(actor, loss), mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(RuntimeError, match=f"{message}.*functional=False"):
            loss(batch(actor, 12))


def test_a_sharded_critic_is_looked_at_too():
    with group_of(2):
        loss = make("drpo q", functional=False)
        fully_shard(loss.qvalue_network.members[0], mesh=init_device_mesh("cpu", (2,)))
        with pytest.raises(RuntimeError, match="given a TensorDictModule"):
            run(loss, batch(gaussian_actor(), 12))


# -- two processes ------------------------------------------------------------------------------

N = 16


def _loss(name: str, wrap: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    actor = gaussian_actor()
    if wrap == "fsdp":
        fully_shard(actor[0].module, mesh=init_device_mesh("cpu", (2,)))
        return LOSSES[name](actor, functional=False), actor
    loss = LOSSES[name](actor, functional=wrap == "ddp, functional")
    return DistributedDataParallel(loss), actor


def _gradients(actor: nn.Module) -> list[Tensor]:
    found = [p.grad for p in actor.parameters()]
    return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]


def _rank(rank: int, folder: str) -> None:
    """Both ranks' gradients for every wrapper, and what was warned of."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    out: dict[str, object] = {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for wrap in ("ddp", "ddp, functional", "fsdp"):
            for name in ("bc", "drpo", "repulsive"):
                loss, actor = _loss(name, wrap)
                for _ in range(2):  # the second step is on what the first left behind
                    loss.zero_grad()
                    result = loss(batch(gaussian_actor(), N, seed=rank))
                    total(result).backward()
                out[f"{wrap}/{name}"] = _gradients(actor)
    told = [str(w.message) for w in seen if "process group" in str(w.message)]
    torch.save({"gradients": out, "told": told}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_the_mean_of_their_own_losses_and_say_so(tmp_path: Path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    for r in ranks:
        assert len(r["told"]) == 1
        assert "threshold, standard deviation, kappa" in r["told"][0]
    torch.manual_seed(3)
    actor = gaussian_actor()
    for key, found in ranks[0]["gradients"].items():
        name = key.split("/")[1]
        plain = copy.deepcopy(actor)
        each = []
        for rank in range(2):
            loss = LOSSES[name](plain, functional=False).eval()
            loss.zero_grad()
            if "drpo" in name:  # after one step; rank 0's kappa, by DDP's own copying of buffers
                seed = 0 if key.startswith("ddp") else rank
                loss.kappa = _kappa_after_a_step(plain, seed)
            total(loss(batch(actor, N, seed=rank))).backward()
            each.append([p.grad.clone() for p in plain.parameters()])
        mean = [(a + b) / 2 for a, b in zip(*each, strict=True)]
        torch.testing.assert_close(found, mean, msg=lambda m, k=key: f"{k}: {m}")
        torch.testing.assert_close(found, ranks[1]["gradients"][key])


def _kappa_after_a_step(actor: nn.Module, seed: int) -> float:
    loss = drpo.DRPOLoss(copy.deepcopy(actor))
    loss(batch(actor, N, seed=seed))
    return loss.kappa.item()
