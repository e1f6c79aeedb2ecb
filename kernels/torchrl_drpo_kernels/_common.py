"""What every op shares: which implementation runs, and checks that cost no device work."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

#: Triton is a Linux package; elsewhere every op runs its ATen reference.
HAS_TRITON = importlib.util.find_spec("triton") is not None

#: Triton reads this variable when a kernel is decorated, so it must be set before the import.
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET", "0") == "1"

#: Index outputs are int32, which halves their traffic and bounds the rows of one call.
MAX_ROWS = 2**31 - 1

#: Options of every launch. Triton 3.9 warns where fusion is left to its changing default.
COMPILE = {"enable_fp_fusion": True}

_reference_only = False

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def reference_only() -> Iterator[None]:
    """Runs every op on its ATen reference inside the block, whatever the device.

    The switch is global to the process (backward passes run in threads of their own) and is
    looked at when an op executes, so it also holds for code compiled earlier.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import backend, reference_only
        >>> with reference_only():
        ...     backend(torch.zeros(1))
        'aten'
    """
    global _reference_only
    previous, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = previous


def uses_triton(tensor: Tensor) -> bool:
    """Whether an op on ``tensor`` launches its Triton kernel instead of the ATen reference."""
    return HAS_TRITON and not _reference_only and (tensor.is_cuda or INTERPRETED)


def backend(tensor: Tensor) -> str:
    """The implementation that ops take for tensors like this one: ``"triton"`` or ``"aten"``."""
    return "triton" if uses_triton(tensor) else "aten"


def launches(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """For a function that launches kernels: the device of its first argument becomes the current.

    Triton launches on the current CUDA device and its stream, wherever the arguments lie. The
    first argument is a tensor, or whatever else has a ``device``.
    """

    @functools.wraps(function)
    def on_its_device(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        first: Any = args[0]
        device = first.device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args, **kwargs)
        with torch.cuda.device(device):
            return function(*args, **kwargs)

    return on_its_device


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n`` and at least 1."""
    return 1 << max(0, n - 1).bit_length()


def check_tensor(
    name: str,
    tensor: Tensor,
    *,
    dtypes: tuple[torch.dtype, ...],
    ndim: int | tuple[int, ...],
    like: Tensor | None = None,
) -> None:
    """Raises unless ``tensor`` has an accepted dtype, rank, device and a dense last dimension.

    Args:
        name: what the caller calls the tensor; it opens the message.
        tensor: the tensor to look at; its values are never read.
        dtypes: accepted dtypes.
        ndim: accepted rank or ranks.
        like: a tensor whose device must be shared.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another rank or device, or a stride other than 1 in the last dimension.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        got = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be {wanted}, got {got}; convert it with .to()")
    ranks = (ndim,) if isinstance(ndim, int) else ndim
    if tensor.ndim not in ranks:
        wanted = " or ".join(str(rank) for rank in ranks)
        raise ValueError(f"{name} must have {wanted} dimension(s), got shape {tuple(tensor.shape)}")
    if like is not None and tensor.device != like.device:
        raise ValueError(
            f"{name} lies on {tensor.device} but the first argument on {like.device}; "
            "move all arguments to one device"
        )
    if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name} must be dense in its last dimension, got strides {tensor.stride()} "
            f"for shape {tuple(tensor.shape)}; call .contiguous() first"
        )


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Raises ``ValueError`` unless ``tensor`` has exactly this shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have shape {tuple(shape)} ({meaning}), got {tuple(tensor.shape)}"
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
