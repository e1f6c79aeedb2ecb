"""Histories of like length together: most are short, and padding costs as much as items do."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrl_drpo.functional.host import reads_are_free

#: Histories that are run together: fewer waste less padding and cost more calls.
_TOGETHER = 32


class Encode(Protocol):
    """Compact histories, their lengths and times to ``[B, D]`` or ``[B, L + 1, D]``."""

    def __call__(self, embedded: Tensor, count: Tensor, times: Tensor | None) -> Tensor:
        """See above."""
        ...


def in_lengths(encode: Encode, embedded: Tensor, count: Tensor, times: Tensor | None) -> Tensor:
    """``encode(embedded, count, times)``, in blocks of like length where the host knows lengths.

    Args:
        encode: what is computed of a row depends on the row alone, and on its items alone.
        embedded: ``[B, L, D]``, the items that are there first.
        count: how many these are, int64 ``[B]``.
        times: int64 ``[B, L]``, or ``None``.
    """
    rows, length = embedded.shape[:2]
    if not reads_are_free(count) or rows <= _TOGETHER:
        return encode(embedded, count, times)
    lengths, order = count.sort()
    blocks = []
    for block in order.split(_TOGETHER):
        longest = max(1, int(lengths[len(blocks) * _TOGETHER + len(block) - 1]))
        some = embedded[block, :longest]
        when = None if times is None else times[block, :longest]
        states = encode(some, count[block], when)
        if states.ndim == 3 and longest < length:
            states = F.pad(states, (0, 0, 0, length - longest))
        blocks.append(states)
    return torch.cat(blocks)[order.argsort()]
