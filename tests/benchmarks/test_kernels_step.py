"""The selection by itself, and a whole training step of DRPO at the paper's size.

    pytest -m benchmark_only tests/benchmarks/test_kernels_step.py

``report_kernels.py`` beside this file runs it and writes the tables.
"""

from __future__ import annotations

import os
import statistics
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl_drpo_kernels import select

from torchrl_drpo import DRPOLoss, make_gaussian_actor

sys.path.insert(0, str(Path(__file__).parent))
from catalogue_steps import device_seconds

pytest.importorskip("pytest_benchmark")
pytestmark = [
    pytest.mark.benchmark_only,
    pytest.mark.filterwarnings("ignore"),  # of streams of captured gradients, for one
]
on_gpu = pytest.mark.gpu
KAPPA = 0.1


def ours(quality):
    """Rows, weights, moments and the next kappa; K stays on the device."""
    chosen = select(quality, None, KAPPA)
    return chosen.index, chosen.weight, chosen.next_kappa


def _with_moments(best, rows, quality):
    kept_std, batch_std = best.std(), quality.std()
    weight = (best - best.min()) / (kept_std + 1e-8)
    wider, narrower = min(1.0, 1.02 * KAPPA), max(0.05, 0.98 * KAPPA)
    return rows, weight, torch.where(kept_std < 0.5 * batch_std, wider, narrower)


def topk(quality):
    """``torch.topk`` and the same moments; the host must know K."""
    k = int(KAPPA * quality.shape[0] + 0.5)
    return _with_moments(*quality.topk(k, sorted=False), quality)


def sort(quality):
    """``torch.sort`` and the same moments."""
    k = int(KAPPA * quality.shape[0] + 0.5)
    values, rows = quality.sort(descending=True)
    return _with_moments(values[:k], rows[:k], quality)


SELECTIONS = {"ours": ours, "topk + moments": topk, "sort + moments": sort}
CPU = (320, 10_000, 1_000_000, 10_000_000)
GPU = (320, 32_768, 1_000_000, 10_000_000, 100_000_000)
PLACES = [("cpu", n) for n in CPU] + [pytest.param("cuda", n, marks=on_gpu) for n in GPU]


@pytest.mark.parametrize(("device", "rows"), PLACES)
@pytest.mark.parametrize("name", SELECTIONS)
def test_select(benchmark, name, device, rows):
    quality = torch.randn(rows, device=device)
    run = partial(SELECTIONS[name], quality)
    kept, weight, _ = run()
    total = weight.double().sum()
    expected = topk(quality)[1].double().sum()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    assert (kept[:rows] < rows).all()

    def finished():
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(finished, rounds=20, warmup_rounds=3)
    if device == "cuda":
        benchmark.extra_info["device_s"] = statistics.median(device_seconds(run))
    _describe(benchmark, "select", name, rows, device)


def _describe(benchmark, kind, name, rows, device):
    sizes = {"rows": rows, "items": 0, "width": 0, "kappa": KAPPA}
    info = {"kind": kind, "name": name, "device": device, "load": os.getloadavg()[0], **sizes}
    benchmark.extra_info.update(info)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("name", ["path='reference'", "path='auto'", "path='auto', CUDA graph"])
def test_a_whole_step(benchmark, name, device):
    """Loss, backward and Adam on 320 rows, with the paper's network."""
    if "graph" in name and device == "cpu":
        pytest.skip("needs a GPU")
    path = name.split("'")[1]
    loss = DRPOLoss(make_gaussian_actor(10, 128).to(device), path=path)
    optimizer = torch.optim.Adam(loss.parameters(), capturable=device == "cuda")
    entries = {"observation": torch.randn(320, 10), "action": torch.randn(320, 128)}
    batch = TensorDict({**entries, "next": {"reward": torch.randn(320, 1)}}, [320]).to(device)

    def train():
        optimizer.zero_grad()
        loss(batch)["loss_actor"].backward()
        optimizer.step()

    run = train
    if "graph" in name:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                train()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            train()
        run = graph.replay

    def finished():
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(finished, rounds=200, warmup_rounds=20)
    if device == "cuda":
        benchmark.extra_info["device_s"] = statistics.median(device_seconds(run))
    _describe(benchmark, "step", name, 320, device)
