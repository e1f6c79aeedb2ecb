"""When a value may be read back to the host at no cost."""

from __future__ import annotations

import torch
from torch import Tensor


def under_functorch() -> bool:
    """Whether this runs inside ``torch.vmap`` or another functorch transform."""
    return torch._C._functorch.maybe_current_level() is not None


def is_batched(values: Tensor) -> bool:
    """Whether ``values`` are one thing for each call of a function under ``torch.vmap``."""
    return torch._C._functorch.is_batchedtensor(values)


def reads_are_free(values: Tensor) -> bool:
    """Whether reading a value of ``values`` waits for nothing and breaks nothing.

    True for eager CPU tensors. On an accelerator a read stalls the device; while compiling or
    under ``vmap`` there is no value to read.

    Examples:
        >>> reads_are_free(torch.zeros(2))
        True
        >>> torch.vmap(lambda row: torch.tensor(reads_are_free(row)))(torch.zeros(1, 2))
        tensor([False])
    """
    if torch.compiler.is_compiling() or not values.is_cpu:
        return False
    return torch._C._functorch.maybe_current_level() is None
