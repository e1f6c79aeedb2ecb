"""What one call of ``linear_log_prob`` is about, for every implementation of it.

The custom ops take tensors and numbers one by one, which is their schema; they bundle them here,
so that below them a function's parameters are what it does, not what it is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Scores ``z[i, j] = inverse_temperature * (hidden[i] . items[j] + bias[j])`` and their rows.

    Attributes:
        hidden: policy outputs, ``[N, D]``.
        items: item embeddings, ``[V, D]``.
        action: logged item of each row, ``[N]``.
        n_rows: number of live rows, one integer on the device; ``None``: all.
        bias: ``[V]`` or none.
        inverse_temperature: ``1 / T``.
    """

    hidden: Tensor
    items: Tensor
    action: Tensor
    n_rows: Tensor | None
    bias: Tensor | None
    inverse_temperature: float

    @property
    def device(self) -> torch.device:
        """Where the kernels are launched."""
        return self.hidden.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows N, items V and their width D."""
        return self.hidden.shape[0], self.items.shape[0], self.hidden.shape[1]


class Slopes(NamedTuple):
    """What each row sends into its logits, ``[N]`` each.

    Row ``i`` sends ``soft[i] * p[i, j] + logged[i] * (j == action[i])`` into the logit
    ``hidden[i] . items[j] + bias[j]``, with ``p`` from ``lse``; ``soft`` and ``logged`` already
    hold the inverse temperature.
    """

    lse: Tensor
    soft: Tensor
    logged: Tensor


class Needed(NamedTuple):
    """Which gradients somebody wants."""

    hidden: bool
    items: bool
    bias: bool


def empty_gradients(
    hidden: Tensor, items: Tensor, bias: Tensor | None, needed: Needed
) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes that a backward op returns: no rows for what is not needed.

    The items' gradient comes with the bias', which has their type where there is no bias.
    """
    d_hidden = hidden.new_empty(hidden.shape[0] if needed.hidden else 0, hidden.shape[1])
    rows = items.shape[0] if needed.items or needed.bias else 0
    like = items if bias is None else bias
    d_bias = like.new_empty(items.shape[0] if needed.bias else 0)
    return d_hidden, items.new_empty(rows, items.shape[1]), d_bias
