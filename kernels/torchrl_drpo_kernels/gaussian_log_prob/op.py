"""Registration of ``drpo::gaussian_log_prob``, its gradients, and the public function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import HAS_TRITON, check_shape, check_tensor, uses_triton
from torchrl_drpo_kernels._common_rows import (
    FLOATS,
    accumulation_dtype,
    check_rows,
    places,
    pull_back,
)
from torchrl_drpo_kernels.gaussian_log_prob import reference

if HAS_TRITON:
    from torchrl_drpo_kernels.gaussian_log_prob import kernel


def gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    index: Tensor | None = None,
    n_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Log-density of logged actions under a diagonal Gaussian policy, for the kept rows only.

    .. math:: \log\pi(a|s) = -\tfrac12 (D + d \log 2\pi) - \sum_k \log\sigma_k, \qquad
              D = \sum_k (a_k - \mu_k)^2 / \sigma_k^2

    D, the remoteness that tapers look at, is a by-product of the same pass and a constant of the
    step. Differentiable, twice where asked for, in ``mean``, ``log_std`` and ``action``.

    Args:
        mean: policy means, float16, bfloat16, float32 or float64, ``[N, d]``.
        log_std: logarithms of the standard deviations, ``[d]`` or ``[N, d]``.
        action: logged actions, ``[N, d]``.
        index: rows to evaluate, distinct integers in [0, N), ``[M]``, such as
            ``Selection.index``; ``None`` for all rows in order.
        n_rows: how many places of ``index`` count, one integer on the device, such as
            ``Selection.n_rows``; never read back from a GPU but for float64, which runs the
            reference. ``None`` for all.

    Returns:
        ``log_prob`` in nats and ``remoteness`` in [0, inf), ``[M]`` each: place j is row
        ``index[j]``; places from ``n_rows`` on are 0. float32, or float64 where an input is.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a rank, shape, device or stride is wrong.
        IndexError: if ``index`` leaves [0, N); looked at on a CPU only, where it is free.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import gaussian_log_prob
        >>> mean, log_std = torch.zeros(3, 2), torch.zeros(2)
        >>> action = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        >>> index, n_rows = torch.tensor([0, 2, 0]), torch.tensor([2])
        >>> gaussian_log_prob(mean, log_std, action, index, n_rows)
        (tensor([-1.8379, -2.3379,  0.0000]), tensor([0., 1., 0.]))
    """
    check(mean, log_std, action)
    check_rows(index, n_rows, mean)
    log_prob, remoteness = _gaussian_log_prob(mean, log_std, action, index, n_rows)
    return log_prob, remoteness


def check(mean: Tensor, log_std: Tensor, action: Tensor) -> None:
    """Everything that shapes, types and devices can tell; no value is looked at."""
    check_tensor("mean", mean, dtypes=FLOATS, ndim=2)
    check_tensor("log_std", log_std, dtypes=FLOATS, ndim=(1, 2), like=mean)
    check_tensor("action", action, dtypes=FLOATS, ndim=2, like=mean)
    shape = tuple(mean.shape)
    check_shape("log_std", log_std, shape[-log_std.ndim :], "that of mean, or its last dimension")
    check_shape("action", action, shape, "that of mean")


def _runs_kernel(mean: Tensor, log_std: Tensor, action: Tensor) -> bool:
    """The kernels accumulate in float32, so float64 takes the reference on every device."""
    return uses_triton(mean) and accumulation_dtype(mean, log_std, action) == torch.float32


def run(
    mean: Tensor, log_std: Tensor, action: Tensor, index: Tensor | None, n_rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(log_prob, remoteness), ``[M]`` each, by the kernel or the reference."""
    if _runs_kernel(mean, log_std, action):
        return kernel.forward(mean, log_std, action, index, n_rows)
    return reference.gaussian_log_prob(mean, log_std, action, index, n_rows)


_gaussian_log_prob = torch.library.custom_op("drpo::gaussian_log_prob", run, mutates_args=())


@_gaussian_log_prob.register_fake
def _(
    mean: Tensor, log_std: Tensor, action: Tensor, index: Tensor | None, n_rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    row = mean.new_empty(places(index, mean), dtype=accumulation_dtype(mean, log_std, action))
    return row, torch.empty_like(row)


@torch.library.custom_op("drpo::gaussian_log_prob_backward", mutates_args=())
def _backward(
    grad: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of mean and log_std."""
    run = kernel.backward if _runs_kernel(mean, log_std, action) else reference.backward
    return run(grad, mean, log_std, action, index, n_rows)


@_backward.register_fake
def _(
    grad: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return mean.new_empty(mean.shape), log_std.new_empty(log_std.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    mean, log_std, action, index, n_rows = ctx.saved_tensors
    grad_mean, grad_log_std = _backward(grad, mean, log_std, action, index, n_rows)
    grad_action = (-grad_mean).to(action.dtype) if ctx.needs_input_grad[2] else None
    return grad_mean, grad_log_std, grad_action, None, None


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_twice(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, index, n_rows = ctx.saved_tensors
    gradients = partial(reference.backward, index=index, n_rows=n_rows)
    found = pull_back(gradients, inputs, cotangents)
    return *found, None, None


_gaussian_log_prob.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_differentiate_twice, setup_context=_save_all)
