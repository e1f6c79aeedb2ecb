"""DRPO's step on a GPU: equal to the CPU's, without a host read, and captured as a whole."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.gpu import captured, no_host_reads
from tests.objectives.drpo import test_fused
from tests.objectives.drpo.test_fused import CASES, make, step
from torchrl_drpo import AdaptiveKappa, DRPOLoss
from torchrl_drpo.objectives.drpo.ceiling import KappaCeiling

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_steps_as_on_a_cpu(case, weighting):
    actor, batch = make(case)
    options = {"weighting": weighting, "temperature": 0.5}
    here = DRPOLoss(copy.deepcopy(actor), path="reference", **options)
    there = DRPOLoss(actor.to("cuda"), **options)  # takes the ops by itself
    for i in range(4):
        rows = batch[torch.randperm(len(batch))[: len(batch) - 7 * i]]
        rows["collector", "mask"] = torch.rand(len(rows)) < 0.8
        want, want_grads = step(here, rows)
        got, got_grads = step(there, rows.to("cuda"))
        for key in here.out_keys:
            torch.testing.assert_close(got[key].cpu(), want[key], rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(got_grads, want_grads, strict=True):
            torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-3, atol=1e-5)
    every = weighting == "linear" or case == "plain"
    assert there.backend == ("fused" if every else "fused_op")


@pytest.mark.parametrize("kappa", [0.3, AdaptiveKappa(initial=0.3)], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("weighting", ["linear", "uniform"])
@pytest.mark.parametrize("case", CASES)
def test_after_the_first_step_nothing_is_read_back(case, weighting, kappa):
    actor, batch = make(case)
    loss, batch = DRPOLoss(actor.to("cuda"), kappa=kappa, weighting=weighting), batch.to("cuda")
    for _ in range(2):  # kernels compile, and kappa is looked at once
        step(loss, batch)
    with no_host_reads():
        for _ in range(40):  # kappa is sent to the host in between
            step(loss, batch)


@pytest.mark.parametrize("weighting", ["linear", "uniform"])
@pytest.mark.parametrize("case", CASES)
def test_a_training_step_of_320_rows_is_one_cuda_graph(case, weighting, monkeypatch):
    monkeypatch.setattr(test_fused, "N", 320)
    actor, batch = make(case)
    batch = batch.to("cuda")
    loss = DRPOLoss(actor.to("cuda"), weighting=weighting)

    def train(loss, batch):
        parameters = list(loss.parameters())
        out, grads = step(loss, batch)
        with torch.no_grad():
            torch._foreach_add_(parameters, grads, alpha=-0.01)
        return out["loss_actor"].detach(), out["kappa"]

    graph, outputs = captured(lambda: train(loss, batch))
    twin = copy.deepcopy(loss)
    for _ in range(3):
        batch["next", "reward"].copy_(torch.rand(320, 1))
        graph.replay()
        torch.testing.assert_close(outputs, train(twin, batch.clone()), rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(loss.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss.kappa, twin.kappa)
    for _ in range(100):  # the replays may move kappa far; an eager step keeps all of its rows
        graph.replay()
    reference = DRPOLoss(actor, path="reference", weighting=weighting, kappa=loss.kappa.item())
    reference.load_state_dict(loss.state_dict())
    torch.testing.assert_close(
        loss(batch)["loss_actor"], reference(batch)["loss_actor"], rtol=1e-4, atol=1e-5
    )


def test_the_host_s_bound_follows_kappa_through_pinned_memory():
    controller = AdaptiveKappa(initial=1.0, up=1.05, down=0.9)
    kappa, ceiling = torch.ones((), device="cuda"), KappaCeiling()
    zero, one = torch.zeros((), device="cuda"), torch.ones((), device="cuda")
    for i in range(300):
        assert kappa.item() <= ceiling.bound(kappa)
        kappa.copy_(controller.step(kappa, one if i % 3 else zero, one))
        ceiling.advance(kappa, controller)
    assert ceiling.bound(kappa) < 0.05 * 1.05**40


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("case", ["gaussian", "catalogue"])
def test_compiled_to_one_graph_it_is_the_same_step(case):
    actor, batch = make(case)
    batch, eager = batch.to("cuda"), DRPOLoss(actor.to("cuda"))
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    for _ in range(2):
        out, again = compiled(batch), eager(batch)
        torch.testing.assert_close(out["loss_actor"], again["loss_actor"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out["kappa"], again["kappa"])


@pytest.mark.parametrize("case", ["gaussian", "catalogue", "semantic"])
def test_under_autocast_the_step_is_close_to_that_in_float32(case):
    actor, batch = make(case)
    batch, loss = batch.to("cuda"), DRPOLoss(actor.to("cuda"), kappa=0.3)
    exact, _ = step(loss, batch)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half, grads = step(loss, batch)
    torch.testing.assert_close(half["loss_actor"], exact["loss_actor"], rtol=0.05, atol=0.05)
    assert all(g.isfinite().all() for g in grads)
