r"""Diagonal Gaussian log-density in ATen: the op's specification, CPU path and double backward.

z          = (action - mean) / exp(log_std)                 per dimension
remoteness = sum z^2                                        the squared Mahalanobis distance
log_prob   = -(remoteness + d log 2 pi) / 2 - sum log_std

d log_prob / d mean = z / std        d log_prob / d log_std = z^2 - 1
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo_kernels._common_rows import (
    accumulation_dtype,
    live_rows,
    padded,
    places,
    spread,
)


def gaussian_log_prob(
    mean: Tensor, log_std: Tensor, action: Tensor, index: Tensor | None, n_rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns ``log_prob`` and ``remoteness``, one for each place; only live rows are read."""
    z, log_std = _standardised(mean, log_std, action, live_rows(index, n_rows, mean))
    remoteness = z.square().sum(-1)
    constant = 0.5 * mean.shape[1] * math.log(2 * math.pi)
    log_prob = -0.5 * remoteness - log_std.sum(-1) - constant
    length = places(index, mean)
    return padded(log_prob, length), padded(remoteness, length)


def backward(
    grad: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``mean`` and ``log_std``; that of ``action`` is minus the first."""
    rows = live_rows(index, n_rows, mean)
    z, wide_log_std = _standardised(mean, log_std, action, rows)
    grad = grad[: z.shape[0], None]
    grad_mean = spread(grad * z * (-wide_log_std).exp(), rows, mean)
    grad_log_std = grad * (z.square() - 1.0)
    if log_std.ndim == 1:
        return grad_mean, grad_log_std.sum(0).to(log_std.dtype)
    return grad_mean, spread(grad_log_std, rows, log_std)


def _standardised(
    mean: Tensor, log_std: Tensor, action: Tensor, rows: Tensor | slice
) -> tuple[Tensor, Tensor]:
    """Z and log_std of the live rows, in the accumulation dtype."""
    dtype = accumulation_dtype(mean, log_std, action)
    wide = (log_std if log_std.ndim == 1 else log_std[rows]).to(dtype)
    return (action[rows].to(dtype) - mean[rows].to(dtype)) * torch.exp(-wide), wide
