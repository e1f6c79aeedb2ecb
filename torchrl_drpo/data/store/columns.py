"""Column files: how they are written piece by piece, and mapped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor


def append(path: Path, array: np.ndarray) -> None:
    """Appends an array's bytes to a file."""
    with path.open("ab") as file:
        np.ascontiguousarray(array).tofile(file)


def cut(path: Path, size: int) -> None:
    """Cuts a file back to ``size`` bytes (or makes it empty): what a killed run left is dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size)


def map_array(path: Path, dtype: torch.dtype) -> Tensor:
    """A raw array of a file as a memory-mapped tensor, which pickles by its file name."""
    count = path.stat().st_size // torch.empty((), dtype=dtype).element_size()
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return MemoryMappedTensor.from_filename(path, dtype=dtype, shape=[count])


def write_rows_meta(
    rows: Path, columns: dict[str, tuple[str, tuple[int, ...]]], count: int
) -> None:
    """Gives raw column files the metadata that makes them a memory-mapped TensorDict.

    Args:
        rows: folder of the column files, ``next.reward`` lying at ``next/reward.memmap``.
        columns: dotted key -> (numpy dtype, shape of one row).
        count: number of rows.
    """
    outline = TensorDict({}, [count])
    for key, (dtype, shape) in columns.items():
        sample = torch.from_numpy(np.zeros((1, *shape), dtype=dtype))
        outline.set(tuple(key.split(".")), sample.expand(count, *shape))
    scratch = rows.parent / "meta.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    outline.memmap_like(scratch)  # sparse files: nothing but the metadata takes space
    for meta in scratch.rglob("meta.json"):
        target = rows / meta.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(meta, target)
    shutil.rmtree(scratch)
