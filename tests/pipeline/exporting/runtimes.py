"""What can be exported and run here."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.pipeline.exporting import load_exported

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
FORMATS: tuple[Any, ...] = ("pt2", "onnx") if HAS_ONNX else ("pt2",)
RUNTIMES: tuple[Any, ...] = ("torch", "onnx")[: len(FORMATS)]


def check_lists(folder: Any, rows: dict[str, Tensor], items: Tensor, log_probs: Tensor) -> None:
    """Every exported graph of a folder gives these lists."""
    for runtime in RUNTIMES:
        found = load_exported(folder, runtime).tensors(rows)
        assert torch.equal(found[0], items), runtime
        torch.testing.assert_close(found[1], log_probs, rtol=1e-4, atol=1e-5)
