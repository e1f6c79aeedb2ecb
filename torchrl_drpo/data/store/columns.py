"""Column files: written piece by piece, mapped so that nobody's writing reaches the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from .manifest import Array


def write_array(file: BinaryIO, array: np.ndarray) -> memoryview:
    """Writes an array's bytes and returns them; a full disk is an ``OSError`` with its number."""
    data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    file.write(data)
    return data


def map_array(folder: Path, array: Array) -> Tensor:
    """A file's array as a tensor over private pages of its own.

    Reading costs no copy. What is written into the tensor stays in it: neither the file nor any
    other tensor over it changes.
    """
    dtype = getattr(torch, array.dtype)
    if array.nbytes == 0:
        return torch.empty(array.shape, dtype=dtype)
    size = array.nbytes // torch.empty((), dtype=dtype).element_size()
    flat = torch.from_file(str(folder / array.file), shared=False, size=size, dtype=dtype)
    return flat.view(array.shape)


def write_rows_meta(rows: Path, columns: dict[tuple[str, ...], Array], count: int) -> None:
    """Lets ``TensorDict.load_memmap`` read the rows as well; this package never does.

    Args:
        rows: folder of the column files, ``("next", "reward")`` lying at ``next/reward.memmap``.
        columns: of the rows, by the keys that their files' places spell.
        count: number of rows.
    """
    outline = TensorDict({}, [count])
    for key, column in columns.items():
        sample = torch.zeros((1, *column.shape[1:]), dtype=getattr(torch, column.dtype))
        outline.set(key, sample.expand(column.shape))
    scratch = rows.parent / "meta.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    outline.memmap_like(scratch)  # sparse files: nothing but the metadata takes space
    for meta in scratch.rglob("meta.json"):
        target = rows / meta.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(meta, target)
    shutil.rmtree(scratch)
