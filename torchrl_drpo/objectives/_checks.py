"""What every objective refuses of a batch, where looking is free or was asked for."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.distributed.ranks import world_size
from torchrl_drpo.functional.checks import check_finite, check_float32_range, is_finite
from torchrl_drpo.functional.host import reads_are_free, under_functorch


def wants_check(requested: bool | None, values: Tensor) -> bool:
    """Whether to look for non-finite values now: by default where it is free, never in a graph."""
    if requested is None:
        return reads_are_free(values)
    return requested and not torch.compiler.is_compiling() and not under_functorch()


def check_signal(name: str, key: NestedKey, values: Tensor, mask: Tensor | None) -> None:
    """Rewards that no loss can hold are an error with a row, not a NaN loss three steps later."""
    if is_finite(values) and values.dtype != torch.float64:
        return
    named, hint = f"{name} {key!r}", "drop or repair these rows before they are sampled"
    check_finite(named, values, mask, hint=hint)
    check_float32_range(named, values, mask, hint="rescale the signal")


def check_shape(
    tensordict: TensorDictBase, level: str, owner: str, *, may_be_empty: bool = False
) -> None:
    """Raises ``ValueError`` for a batch of a shape that holds no rows, or of none at all."""
    shape = tensordict.shape
    if shape.numel() == 0 and not may_be_empty:  # TensorDict.numel() of an empty batch is 1
        hint = ", or pass over=... to make the rows of all ranks one batch"
        raise ValueError(
            f"{owner} got an empty batch of shape {tuple(shape)}; sample at least one row"
            f"{hint if world_size() > 1 else ''}"
        )
    if not shape:
        raise ValueError(
            f"{owner} got a single row, without a batch dimension; pass a batch, such as "
            "tensordict.unsqueeze(0)"
        )
    if level == "trajectory" and len(shape) < 2:
        raise ValueError(
            f"level='trajectory' reads whole rows of a [B, T] batch, {owner} got one of shape "
            f"{tuple(shape)}; sample trajectories, or use level='step'"
        )


def check_any_valid(steps: Tensor, requested: bool | None, owner: str) -> None:
    """Raises ``ValueError`` where a mask leaves nothing, unless other ranks may have rows."""
    if not wants_check(requested, steps) or world_size() > 1:
        return
    if not steps.any():
        raise ValueError(
            f"all {steps.numel()} rows that {owner} got are masked out, so there is nothing to "
            "learn from; sample other rows, or name the mask with loss.loss_mask_key"
        )
