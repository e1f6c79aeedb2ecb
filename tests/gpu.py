"""What tests that need a CUDA device share; importing it needs none."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextlib.contextmanager
def no_host_reads() -> Iterator[None]:
    """Inside, an operation that makes the host wait for the device is an error."""
    with warnings.catch_warnings():  # torch says of itself that the mode is a prototype
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(step: Callable[[], Result], warmup: int = 3) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of one ``step`` and the tensors that a replay writes, after some eager steps.

    The first steps compile kernels and allocate what libraries keep, which a capture cannot.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmup):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result
