"""Registration of ``drpo::gather_log_prob``, its gradients, and the public function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import HAS_TRITON, check_shape, check_tensor, uses_triton
from torchrl_drpo_kernels._common_rows import (
    FLOATS,
    INTEGERS,
    accumulation_dtype,
    check_rows,
    live_rows,
    places,
    pull_back,
)
from torchrl_drpo_kernels.gather_log_prob import reference

if HAS_TRITON:
    from torchrl_drpo_kernels.gather_log_prob import kernel

#: Check token ids on accelerators too. The check waits for the device, so it is off; on a CPU it
#: always runs.
CHECK_ACTIONS_ON_ACCELERATOR = False


def gather_log_prob(
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None = None,
    index: Tensor | None = None,
    n_rows: Tensor | None = None,
) -> Tensor:
    r"""Log-probability of logged items or token sequences, given their logits, for the kept rows.

    .. math:: \log\pi(a_i|s_i) = \sum_t m_{it} \Big( z_{it a_{it}} - \log\sum_v e^{z_{itv}} \Big)

    The forward pass reads the kept rows' logits once and writes one number a token: no softmax is
    materialised. The backward pass writes the gradient of the logits and nothing else.
    Differentiable in ``logits``, twice where asked for.

    Args:
        logits: float16, bfloat16, float32 or float64, ``[N, V]`` or, for sequences,
            ``[N, T, V]``. ``-inf`` excludes a token.
        action: logged token ids in [0, V), int32 or int64, ``[N]`` or ``[N, T]``.
        mask: bool ``[N, T]``, ``True`` where a token counts; sequences only. Masked tokens and
            their logits may hold anything.
        index: rows to evaluate, distinct integers in [0, N), ``[M]``, such as
            ``Selection.index``; ``None`` for all rows in order.
        n_rows: how many places of ``index`` count, one integer on the device, such as
            ``Selection.n_rows``; never read back from a GPU but for float64, which runs the
            reference. ``None`` for all.

    Returns:
        Log-probabilities in nats, ``[M]``: place j is row ``index[j]``; places from ``n_rows`` on
        are 0. float32, or float64 for float64 logits.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a rank, shape, device or stride is wrong, or a token is out of range;
            tokens are looked at on a CPU only, since it waits for the device
            (``gather_log_prob.op.CHECK_ACTIONS_ON_ACCELERATOR`` turns the check on there;
            without it such a token's logit counts as -inf).
        IndexError: if ``index`` leaves [0, N); looked at on a CPU only.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import gather_log_prob
        >>> logits = torch.zeros(2, 3, 4)  # two sequences of three tokens out of four
        >>> action = torch.tensor([[0, 1, 2], [3, -1, -1]])
        >>> gather_log_prob(logits, action, mask=action >= 0).exp()  # 4^-3 and 4^-1
        tensor([0.0156, 0.2500])
    """
    check(logits, action, mask)
    check_rows(index, n_rows, logits)
    if logits.ndim == 2:
        logits, action = logits.unsqueeze(1), action.unsqueeze(1)
    log_prob: Tensor = _gather_log_prob(logits, action, mask, index, n_rows)[0]
    return log_prob


def check(logits: Tensor, action: Tensor, mask: Tensor | None) -> None:
    """Everything that shapes, types and devices can tell; no value is looked at."""
    check_tensor("logits", logits, dtypes=FLOATS, ndim=(2, 3))
    check_tensor("action", action, dtypes=INTEGERS, ndim=logits.ndim - 1, like=logits)
    check_shape("action", action, tuple(logits.shape[:-1]), "that of logits but the last")
    if logits.shape[-1] == 0:
        raise ValueError(f"logits must have at least one item, got shape {tuple(logits.shape)}")
    if mask is not None:
        if logits.ndim == 2:
            raise ValueError("mask is for sequences, logits [N, T, V]; leave rows out by index")
        check_tensor("mask", mask, dtypes=(torch.bool,), ndim=2, like=logits)
        check_shape("mask", mask, tuple(action.shape), "that of action")


def _runs_kernel(logits: Tensor) -> bool:
    """The kernels accumulate in float32, so float64 takes the reference on every device."""
    return uses_triton(logits) and logits.dtype != torch.float64


def run(
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(log_prob [M], lse [M, T]) by the kernel or the reference; logits are 3-D here."""
    if not _runs_kernel(logits):
        return reference.gather_log_prob(logits, action, mask, index, n_rows)
    if CHECK_ACTIONS_ON_ACCELERATOR or logits.device.type == "cpu":
        rows = live_rows(index, n_rows, logits)
        reference.check_tokens(action, mask, rows, logits.shape[2])
    return kernel.forward(logits, action, mask, index, n_rows)


_gather_log_prob = torch.library.custom_op("drpo::gather_log_prob", run, mutates_args=())


@_gather_log_prob.register_fake
def _(
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    length, dtype = places(index, logits), accumulation_dtype(logits)
    lse = logits.new_empty(length, logits.shape[1], dtype=dtype)
    return logits.new_empty(length, dtype=dtype), lse


@torch.library.custom_op("drpo::gather_log_prob_backward", mutates_args=())
def _backward(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> Tensor:
    """Returns the gradient of the logits."""
    run = kernel.backward if _runs_kernel(logits) else reference.backward
    return run(grad, logits, lse, action, mask, index, n_rows)


@_backward.register_fake
def _(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, action, mask, index, n_rows = inputs
    lse = output[1]
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, lse, action, mask, index, n_rows)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    return _backward(grad, *ctx.saved_tensors), None, None, None, None


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_twice(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    # lse is a function of the logits, which the reference differentiates through.
    grad, logits, _, action, mask, index, n_rows = ctx.saved_tensors
    gradient = partial(
        reference.differentiable_backward, action=action, mask=mask, index=index, n_rows=n_rows
    )
    grad_grad, grad_logits = pull_back(gradient, (grad, logits), (cotangent,))
    return grad_grad, grad_logits, None, None, None, None, None


_gather_log_prob.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_differentiate_twice, setup_context=_save_all)
