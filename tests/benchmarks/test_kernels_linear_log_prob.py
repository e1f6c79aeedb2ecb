"""A training step over a catalogue: ours against every peer, on the same tensors.

    pytest -m benchmark_only tests/benchmarks/test_kernels_linear_log_prob.py

``report_kernels.py`` beside this file runs it and writes the table and the plot. Every entry
carries its sizes and its peak memory in ``extra_info``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from catalogue_steps import (
    ENCODERS,
    STEPS,
    Problem,
    device_seconds,
    gpu_memory,
    launch_step,
    make_batch,
    missing,
    peak_memory,
    rounds_within,
    run_step,
)
from kernel_tables import GPU_KAPPAS, GPU_SIZES

pytest.importorskip("pytest_benchmark")
pytestmark = [
    pytest.mark.benchmark_only,
    pytest.mark.filterwarnings("ignore"),  # peers warn of many things, and warnings are errors
]

#: The goals' sizes, and around the first of them kappa, the catalogue and the batch.
CPU = [
    *(Problem(4096, 50_000, 128, kappa) for kappa in (0.1, 0.05, 0.5, 1.0)),
    Problem(4096, 200_000, 64, 0.1),
    *(Problem(4096, items, 128, 0.1) for items in (10_000, 200_000)),
    *(Problem(rows, 50_000, 128, 0.1) for rows in (1024, 16_384)),
    Problem(16_384, 200_000, 64, 0.1),
]
GPU = [
    Problem(*sizes, kappa, "cuda", torch.bfloat16) for sizes in GPU_SIZES for kappa in GPU_KAPPAS
]
#: Dense logits, their softmax and their gradient in bytes, beyond which a dense peer is left out.
DENSE_LIMIT = {"cpu": 11e9, "cuda": 60e9}


def _label(value: object) -> str:
    if not isinstance(value, Problem):
        return str(value)
    return f"{value.device}-{value.rows}-{value.items}-{value.width}-{value.kappa:g}"


@pytest.mark.parametrize("kappa", [0.1, 1.0])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("name", STEPS)
def test_all_ways_agree(name, device, dtype, kappa):
    """They compute one thing; otherwise their times could not be compared."""
    if reason := missing(name, device, dtype):
        pytest.skip(reason)
    batch = make_batch(Problem(200, 3000, 32, kappa, device, dtype))
    found = run_step(name, batch, kappa).double()
    grads = batch.hidden.grad.double(), batch.table.grad.double()
    hidden, table = (x.detach().double().requires_grad_() for x in batch[:2])
    wide = batch._replace(hidden=hidden, table=table)
    expected = run_step("dense cross-entropy", wide, kappa).double()
    half = dtype == torch.bfloat16  # logits of -10 to 10 in 8 bits, and 410 of them added up
    torch.testing.assert_close(found, expected, rtol=1e-2 if half else 1e-4, atol=1e-5)
    for ours, wanted in zip(grads, (hidden.grad, table.grad), strict=True):
        error = (ours - wanted).abs().max() / wanted.abs().max()
        assert error < (0.03 if half else 1e-3), name


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    "problem", [*CPU, *(pytest.param(p, marks=pytest.mark.gpu) for p in GPU)], ids=_label
)
def test_step(benchmark, name, problem):
    if reason := missing(name, problem.device, problem.dtype):
        pytest.skip(reason)
    rows = problem.rows if name.startswith("dense") else problem.rows * problem.kappa
    keeps_logits = name.endswith(" cross-entropy")  # plain or compiled; the others work in parts
    if keeps_logits and 12 * rows * problem.items > DENSE_LIMIT[problem.device]:
        pytest.skip("its logits do not fit this machine's memory")
    if problem.device == "cuda" and problem.kappa != 0.1:
        if name.startswith("dense"):
            pytest.skip("the same work at every kappa")
        if "compiled" in name:
            pytest.skip("compiles for longer than all others run")
    if problem.device == "cpu" and rows * problem.items > 2e9:
        pytest.skip("takes minutes a step")
    batch = make_batch(problem)
    step = partial(run_step, name, batch, problem.kappa)
    _warm_up(step, name)
    on_gpu = problem.device == "cuda"
    if on_gpu:
        start = time.perf_counter()
        step()
        rounds = rounds_within(0.3, time.perf_counter() - start)
    else:
        rounds = 3 if rows * problem.items > 2e8 else 7
    benchmark.pedantic(step, rounds=rounds)
    if on_gpu:
        times = device_seconds(partial(launch_step, name, batch, problem.kappa))
        benchmark.extra_info["device_s"] = statistics.median(times)
        peak = gpu_memory(name, batch, problem.kappa)
    else:
        peak = _peak_in_a_process_of_its_own(name, problem)
    benchmark.extra_info.update(
        name=name,
        load=os.getloadavg()[0],
        peak_bytes=peak,
        **problem._replace(dtype=str(problem.dtype))._asdict(),
    )


def _warm_up(step, name):
    """Compiles and tunes. A peer that cannot do this problem is left out, ours must."""
    torch._dynamo.reset()  # beyond eight shapes torch.compile would quietly run eagerly
    try:
        step()
    except Exception as error:
        if name.startswith("ours"):
            raise
        torch.cuda.empty_cache()
        pytest.skip(f"{name} cannot do this: {type(error).__name__}: {error}")


def _peak_in_a_process_of_its_own(name: str, problem: Problem) -> int:
    script = Path(__file__).with_name("catalogue_steps.py")
    sizes = ("rows", "items", "width", "kappa")
    options = [word for size in sizes for word in (f"--{size}", str(getattr(problem, size)))]
    command = [sys.executable, str(script), name, "--threads", str(torch.get_num_threads())]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return int(done.stdout)


def make_encoder(width: int, layers: int) -> torch.nn.Module:
    torch.manual_seed(1)
    blocks = [torch.nn.Linear(width, 512), torch.nn.ReLU()]
    for _ in range(layers - 1):
        blocks += [torch.nn.Linear(512, 512), torch.nn.ReLU()]
    return torch.nn.Sequential(*blocks, torch.nn.Linear(512, width))


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("kappa", [0.1, 1.0])
@pytest.mark.parametrize("name", ENCODERS)
def test_where_the_encoder_stands(benchmark, name, kappa, layers):
    """Before the selection or behind it: what a dropped row costs."""
    problem = Problem(4096, 10_000, 64, kappa)
    batch, encoder = make_batch(problem), make_encoder(64, layers)
    batch = batch._replace(hidden=batch.hidden.detach())

    def step():
        loss = ENCODERS[name](encoder, batch, kappa)
        return loss, torch.autograd.grad(loss, [batch.table, *encoder.parameters()])

    benchmark.pedantic(step, rounds=9, warmup_rounds=2)
    found, first = step()[0], ENCODERS["select, encode kept rows, log-prob"]
    torch.testing.assert_close(found, first(encoder, batch, kappa))
    benchmark.extra_info.update(
        name=name,
        load=os.getloadavg()[0],
        layers=layers,
        **problem._replace(dtype="")._asdict(),
    )


def test_the_memory_of_a_step_is_seen():
    """One tensor of a known size must show up in the measurement."""
    problem = Problem(2048, 20_000, 16, 1.0)
    logits = 4 * problem.rows * problem.items
    peak = _peak_in_a_process_of_its_own("dense cross-entropy", problem)
    assert 2 * logits < peak < 4 * logits
    assert callable(peak_memory)
