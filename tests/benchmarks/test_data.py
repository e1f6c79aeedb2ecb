"""Sampling speed by the log's size: pytest -m benchmark_only tests/benchmarks/test_data.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from torchrl_drpo.data import (
    QuantileSampler,
    RecReplayBuffer,
    TrajectorySampler,
    WindowUnit,
    convert_log,
)

pytestmark = pytest.mark.benchmark_only
#: Rows of the generated logs; 50_000_000 takes four minutes and 7 GB of disk to prepare.
ROWS = [int(rows) for rows in os.environ.get("DRPO_BENCHMARK_ROWS", "100000,1000000").split(",")]
CASES = {
    "transitions": lambda: {"batch_size": 4096, "history": 0},
    "histories of 50": lambda: {"batch_size": 4096, "history": 50},
    "trajectory windows of 8": lambda: {
        "batch_size": 512, "history": 0, "sampler": TrajectorySampler(),
        "sample_unit": WindowUnit(8),
    },
    "quantile": lambda: {"batch_size": 4096, "history": 0, "sampler": QuantileSampler(0.1)},
    "quantile, no replacement": lambda: {
        "batch_size": 4096, "history": 0,
        "sampler": QuantileSampler(0.1, without_replacement=True),
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=ROWS)
def root(request, tmp_path_factory) -> Path:
    from tests.benchmarks.data_scale import generate, schema

    folder = tmp_path_factory.mktemp("log")
    generate(folder, request.param)
    convert_log(str(folder / "*.parquet"), folder / "converted", schema(), test_days=3)
    yield folder / "converted"
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", CASES)
def test_sample(benchmark, root, case):
    generator = torch.Generator().manual_seed(0)
    buffer = RecReplayBuffer.open(root, generator=generator, **CASES[case]())
    benchmark.pedantic(buffer.sample, rounds=50, warmup_rounds=50)
    benchmark.extra_info["rows"] = len(buffer)


def test_convert(benchmark, root, tmp_path):
    from tests.benchmarks.data_scale import schema

    source = str(root.parent / "*.parquet")
    benchmark.pedantic(lambda: convert_log(source, tmp_path, schema(), overwrite=True), rounds=1)
