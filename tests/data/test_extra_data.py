"""Extra `data` brings pyarrow alone: a log is converted where nothing else of the tests is."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pyarrow")

ALONE = """
from importlib.machinery import PathFinder

absent = ("pandas", "polars", "scipy", "matplotlib", "rich", "tyro", "safetensors")
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)

import pyarrow as pa
from torchrl_drpo.data import LogSchema, RecReplayBuffer

numbers = ("int8", "uint8", "int16", "uint16", "int32", "int64", "float", "double", "bool")
log = {name: pa.array([1, 0, 1]).cast(name) for name in numbers}
ids = {"user": [1, 1, 2], "item": [5, 6, 5], "time": [1, 2, 3], "quality": [0.5, 0.1, 0.2]}
schema = LogSchema(**{name: name for name in ids}, labels=numbers)
rows = RecReplayBuffer.from_parquet(pa.table({**ids, **log}), schema)[:]
types = [str(rows[name].dtype).removeprefix("torch.") for name in numbers]
assert types == "int8 uint8 int16 int64 int32 int64 float32 float64 bool".split(), types
"""


def test_a_log_is_converted_with_pyarrow_alone():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
