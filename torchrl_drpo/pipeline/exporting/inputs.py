"""What an exported policy reads: names, types and widths."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint

KIND = "torchrl-drpo exported policy"
VERSION = 1

#: The names that exported graphs give to what a log's rows call otherwise.
_NAMES = {"history_time": "times", "history_feedback": "feedback"}
_FLOATING = ("features", "feedback")


class Input(NamedTuple):
    """One input of a graph.

    Attributes:
        name: of the argument.
        dtype: ``"int64"`` or ``"float32"``.
        width: of its last dimension; the first is the batch.
    """

    name: str
    dtype: str
    width: int

    def as_json(self) -> dict[str, Any]:
        """As a manifest has it."""
        return {"name": self.name, "dtype": self.dtype, "shape": ["batch", self.width]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Input:
        """From a manifest."""
        return cls(data["name"], data["dtype"], int(data["shape"][1]))

    def empty(self, rows: int) -> Tensor:
        """What says nothing: padding, unknown values, zeros."""
        if self.dtype == "float32":
            return torch.zeros(rows, self.width)
        fill = 0 if self.name == "times" else -1
        return torch.full((rows, self.width), fill)


def inputs_of(checkpoint: PolicyCheckpoint, exclude: int) -> list[Input]:
    """What a policy's graph reads.

    Args:
        checkpoint: the policy.
        exclude: so many items a row can be left out; 0 for none.
    """
    widths = {
        "context": len(checkpoint.model["context_sizes"]),
        "features": checkpoint.model.get("num_features", 0),
    }
    found = []
    for key in checkpoint.actor.in_keys:
        last = key if isinstance(key, str) else key[-1]
        name = _NAMES.get(last, last)
        dtype = "float32" if name in _FLOATING else "int64"
        found.append(Input(name, dtype, widths.get(name, checkpoint.window)))
    if exclude:
        found.append(Input("exclude", "int64", exclude))
    return found
