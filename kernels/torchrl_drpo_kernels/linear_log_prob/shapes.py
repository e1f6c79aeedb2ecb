"""Tile shapes of the Triton kernels: a static table, never autotuned on the number of rows.

Every cell compiles, with a bias and without, free of spills and within the shared memory of its
architecture, with Triton 3.6 and 3.7 (tests/kernels/aot), but for these, which costs time, not
correctness:

- the gradient of 256 wide float32 items, on sm_90 with 3.6 (80 instructions or more in each of
  eleven tiles) and 3.7 (67 or more in each of seven);
- the forward of 256 wide float32 items with a bias, on sm_90 with 3.7: nine instructions, where a
  tile of half the items would issue half as many again for each logit;
- with 3.6, the gradient of 128 wide items on sm_100 (half precision with a bias: 111 instructions;
  float32: 13).

On sm_90 the half precision cells, and the float32 ones of 64 wide items, are what was fastest of
all that fit, at 4,096 rows and nearly so at 410, on an H200 (tests/benchmarks/kernel_tiles.py; the
items' gradient as it was before kernel_order.py). The others have not been measured.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import INTERPRETED

#: Widest embedding that the kernels take: float32 accumulators of more would not fit.
MAX_WIDTH = 256

#: Parts of one row that are loaded together when they are merged.
MERGED_PARTS = 8


class Tile(NamedTuple):
    """Rows and items of a tile, warps of its program, depth of its load pipeline.

    ``residents`` programs of a forward sweep share a multiprocessor: while one computes
    exponentials, the other multiplies.
    """

    rows: int
    items: int
    warps: int
    stages: int
    residents: int = 1


#: Kernel -> tile for items up to 64, 128 and 256 wide. "mean" is the forward sweep with the
#: expected item, "value" the one without, "items" the items' gradient.
Shapes = dict[str, tuple[Tile, Tile, Tile]]

#: sm_90 and sm_100 load through descriptors (TMA); sm_80 stands for every CUDA device that loads
#: through pointers and has 160 KB of shared memory, "small" for 64 KB (other CUDA cards); AMD cards
#: differ from it in two cells.
_HALF: dict[str, Shapes] = {
    "sm_90": {
        "mean": (Tile(64, 128, 4, 3, 2), Tile(64, 128, 4, 3, 2), Tile(128, 64, 8, 3)),
        "value": (Tile(128, 128, 8, 3, 2), Tile(128, 128, 8, 2, 2), Tile(256, 64, 8, 3)),
        "items": (Tile(64, 128, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2)),
    },
    "sm_100": {
        "mean": (Tile(128, 128, 8, 2), Tile(128, 64, 8, 3), Tile(64, 64, 8, 3)),
        "value": (Tile(128, 256, 8, 2), Tile(128, 256, 8, 2), Tile(128, 128, 4, 2)),
        "items": (Tile(128, 64, 8, 2), Tile(64, 128, 4, 2), Tile(64, 128, 8, 2)),
    },
    "sm_80": {
        "mean": (Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 8, 3)),
        "value": (Tile(128, 128, 8, 3), Tile(128, 128, 8, 3), Tile(64, 128, 8, 2)),
        "items": (Tile(64, 128, 8, 3), Tile(64, 128, 8, 3), Tile(64, 64, 8, 2)),
    },
    "small": {
        "mean": (Tile(128, 64, 8, 2), Tile(128, 64, 8, 2), Tile(64, 32, 4, 2)),
        "value": (Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(128, 64, 8, 2)),
        "items": (Tile(32, 128, 8, 2), Tile(64, 64, 4, 2), Tile(32, 64, 8, 2)),
    },
}
_HALF["amd"] = {
    **_HALF["small"],
    "items": (Tile(32, 128, 8, 2), Tile(32, 128, 8, 2), Tile(16, 64, 4, 2)),
}
#: float32 as TF32: twice the bytes and the registers of an operand.
_SINGLE: dict[str, Shapes] = {
    "sm_90": {
        "mean": (Tile(128, 64, 8, 3, 2), Tile(128, 64, 8, 3), Tile(64, 64, 8, 2)),
        "value": (Tile(128, 64, 8, 3, 2), Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        "items": (Tile(64, 128, 4, 2), Tile(64, 128, 8, 3), Tile(32, 128, 8, 2)),
    },
    "sm_100": {
        "mean": (Tile(128, 64, 8, 3), Tile(64, 64, 8, 3), Tile(32, 64, 4, 2)),
        "value": (Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
        "items": (Tile(64, 128, 8, 3), Tile(32, 64, 8, 3), Tile(32, 64, 8, 2)),
    },
    "sm_80": {
        "mean": (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 32, 8, 2)),
        "value": (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2), Tile(64, 64, 8, 1)),
        "items": (Tile(64, 64, 8, 2), Tile(64, 64, 8, 2), Tile(32, 32, 8, 1)),
    },
    "small": {
        "mean": (Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 1)),
        "value": (Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 4, 1)),
        "items": (Tile(32, 64, 8, 2), Tile(32, 64, 8, 1), Tile(32, 32, 8, 1)),
    },
}
_INTERPRETER = Tile(32, 32, 4, 2)  # small, so that small tests have ragged tiles


def tile_of(kind: str, arch: str, width: int, itemsize: int, descriptors: bool) -> Tile:
    """The tile of one kernel.

    Args:
        kind: ``"mean"``, ``"value"`` or ``"items"``.
        arch: what :func:`architecture` says.
        width: width of the items, padded to a power of two.
        itemsize: bytes of a number.
        descriptors: whether the loads go through descriptors.

    >>> tile_of("value", "sm_90", 128, 2, descriptors=True)
    Tile(rows=128, items=128, warps=8, stages=2, residents=2)
    """
    if arch == "interpreter":
        return _INTERPRETER
    if not descriptors and arch in ("sm_90", "sm_100"):
        arch = "sm_80"
    column = 0 if width <= 64 else 1 if width <= 128 else 2
    return (_HALF if itemsize == 2 else _SINGLE)[arch][kind][column]


def architecture(tensor: Tensor) -> str:
    """A row of the tables; ``"interpreter"`` on a CPU."""
    if INTERPRETED or not tensor.is_cuda:
        return "interpreter"
    if torch.version.hip is not None:
        return "amd"
    known = {(8, 0): "sm_80", (9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100"}
    return known.get(_card(tensor.device)[0], "small")


def programs(tensor: Tensor) -> int:
    """Multiprocessors, each of which takes a tile's ``residents`` of the forward sweep."""
    if INTERPRETED or not tensor.is_cuda:
        return 3
    return _card(tensor.device)[1]


@functools.cache
def _card(device: torch.device) -> tuple[tuple[int, int], int]:
    """Compute capability and multiprocessors: asked once, for a launch asks several times."""
    card = torch.cuda.get_device_properties(device)
    return (card.major, card.minor), card.multi_processor_count
