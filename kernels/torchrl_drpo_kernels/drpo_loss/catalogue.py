"""``drpo::drpo_catalogue_loss``: select, pack, catalogue log-prob and loss in one op.

Kept rows are packed twice, forward and backward, which costs K D reads and saves keeping a copy:
the tiles in between cost 8 K V D. The gradient of the packed rows is written back to their places
by a copy, never added, so it has the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import uses_triton
from torchrl_drpo_kernels._common_rows import padded
from torchrl_drpo_kernels.drpo_loss import step
from torchrl_drpo_kernels.drpo_loss.step import DRPOStep
from torchrl_drpo_kernels.linear_log_prob import dispatch, reference
from torchrl_drpo_kernels.linear_log_prob.arguments import check
from torchrl_drpo_kernels.linear_log_prob.op import check_ids
from torchrl_drpo_kernels.linear_log_prob.problem import Needed, Problem, empty_gradients
from torchrl_drpo_kernels.select.rule import Count, Rule, Selection


def drpo_catalogue_loss(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    quality: Tensor,
    kappa: Tensor | float,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    inverse_temperature: float = 1.0,
    max_rows: int | None = None,
    **rule: Any,
) -> DRPOStep:
    r"""One step of DRPO under a softmax over a catalogue, states encoded for all rows.

    .. math:: L = -\frac1K \sum_{i \in \text{top } K} w_i
              \Big(z_{i,a_i} - \log\sum_j e^{z_{ij}}\Big), \quad z_{ij} = (h_i \cdot E_j + b_j) / T

    The same as ``select``, ``linear_log_prob`` of its rows, and the weighted mean, as one op: no
    ``[N, V]`` logits, and nothing behind the encoder for rows that are not kept. On CUDA nothing
    is read back, so a step is captured in a CUDA graph. Differentiable in ``hidden``, ``items``
    and ``bias``, twice where asked for. Where the encoder is dear, select first and let it see
    the kept rows only.

    Args:
        hidden: encoded states, float16, bfloat16, float32 or float64, ``[N, D]``.
        items: item embeddings of the same type, ``[V, D]``.
        action: logged items in ``[0, V)``, int32 or int64, ``[N]``.
        quality: R, what rows are selected by, float32, ``[N]``.
        kappa: fraction to keep, in (0, 1]: ``[1]`` float32 on the device, or a number.
        mask: bool ``[N]``, ``True`` where a row counts; masked rows may hold anything.
        bias: added to each item's score before the temperature, ``[V]``; ``-inf`` excludes.
        inverse_temperature: ``1 / T``, above 0.
        max_rows: an upper bound M of the kept rows; see ``drpo_gaussian_loss``.
        **rule: options of ``select``.

    Returns:
        A :class:`DRPOStep`: loss, detached log-probs of the kept rows, the selection.

    Raises:
        TypeError: if a dtype is wrong, or an option unknown.
        ValueError: if a rank, shape, device, stride or option is wrong, kappa out of (0, 1], or,
            on a CPU, a kept action outside the catalogue.

    Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import drpo_catalogue_loss
        >>> hidden = torch.zeros(4, 8, requires_grad=True)
        >>> quality, action = torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0, 1, 2, 3])
        >>> step = drpo_catalogue_loss(
        ...     hidden, torch.randn(5, 8), action, quality, 0.5, weighting="uniform"
        ... )
        >>> step.loss.backward()
        >>> step.loss.exp(), hidden.grad.any(1).tolist()  # perplexity 5: all items alike
        (tensor(5.0000, grad_fn=<ExpBackward0>), [False, True, True, False])
    """
    check(hidden, items, action, bias, inverse_temperature)
    options = Rule.of(**rule)
    kappa, places = step.checked(quality, mask, kappa, hidden, max_rows)
    need_mean = torch.is_grad_enabled() and hidden.requires_grad
    loss, log_prob, _, _, _, *selection = _drpo_catalogue_loss(
        hidden, items, action, bias, float(inverse_temperature), need_mean,
        quality.detach(), mask, kappa, places, *options.parts,
    )  # fmt: skip
    return DRPOStep(loss, log_prob, Selection(*selection))


@torch.library.custom_op("drpo::drpo_catalogue_loss", mutates_args=())
def _drpo_catalogue_loss(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    weighting: str,
    ties: str,
    normalize: bool,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns (loss, log_prob [M], slope [M], lse [M], mean [M, D] or [0, D], a selection's four).

    slope is the loss's derivative by each log_prob.
    """
    rule = Rule.from_parts(weighting, ties, normalize, numbers)
    index, weight, stats, counts = step.selected(quality, mask, kappa, rule, max_rows)
    packed, logged, n_rows = _packed(hidden, items, action, index, counts)
    problem = Problem(packed, items, logged, n_rows, bias, inverse_temperature)
    log_prob, lse, mean, _ = dispatch.forward(problem, need_mean)
    log_prob, lse = padded(log_prob, max_rows), padded(lse, max_rows)
    mean = padded(mean, max_rows) if need_mean else mean
    loss, slope = step.loss_and_slope(log_prob, weight, counts)
    return loss, log_prob, slope, lse, mean, index, weight, stats, counts


@_drpo_catalogue_loss.register_fake
def _(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    max_rows: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    row = hidden.new_empty(max_rows, dtype=reference.accumulation_dtype(hidden.dtype))
    mean = row.new_empty(max_rows if need_mean else 0, hidden.shape[1])
    rows = row, torch.empty_like(row), torch.empty_like(row), mean
    return row.new_empty(()), *rows, *step.empty_selection(quality, max_rows)


@torch.library.custom_op("drpo::drpo_catalogue_loss_backward", mutates_args=())
def _backward(
    slope: Tensor,
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    mean: Tensor,
    index: Tensor,
    counts: Tensor,
    need_hidden: bool,
    need_items: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of hidden, items and bias, each empty (no rows) unless needed."""
    packed, logged, n_rows = _packed(hidden, items, action, index, counts)
    live = packed.shape[0]
    return dispatch.backward(
        Problem(packed, items, logged, n_rows, bias, inverse_temperature),
        lse[:live], mean[:live], None, slope[:live], None,
        Needed(need_hidden, need_items, need_bias), index, hidden,
    )  # fmt: skip


@_backward.register_fake
def _(
    slope: Tensor,
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_gradients(hidden, items, bias, Needed(*rest[-3:]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, items, action, bias, ctx.inverse_temperature, *_ = inputs
    _, _, slope, lse, mean, index, _, _, counts = output
    step.one_gradient(ctx, output)
    ctx.save_for_backward(hidden, items, action, bias, slope, lse, mean, index, counts)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 14
    hidden, items, action, bias, slope, lse, mean, index, counts = ctx.saved_tensors
    need = (*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[3])
    slope = grad * slope
    found: Any
    if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this again
        log_prob = reference.linear_log_prob(
            hidden.index_select(0, index), items, action.index_select(0, index),
            counts[:1], bias, ctx.inverse_temperature,
        )[0]  # fmt: skip
        wanted = [x for x, needed in zip((hidden, items, bias), need, strict=True) if needed]
        grads = iter(torch.autograd.grad(log_prob, wanted, slope, create_graph=True))
        found = [next(grads) if needed else None for needed in need]
    else:
        found = _backward(
            slope, hidden, items, action, bias, ctx.inverse_temperature, lse, mean, index, counts,
            *need,
        )  # fmt: skip
        found = [x if needed else None for x, needed in zip(found, need, strict=True)]
    return found[0], found[1], None, found[2], *([None] * 10)


_drpo_catalogue_loss.register_autograd(_differentiate, setup_context=_save)


def _packed(
    hidden: Tensor, items: Tensor, action: Tensor, index: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Kept rows and their actions, contiguous; with their number where only the device knows it.

    The kernels take all places and stop at ``n_rows``. ATen reads the number, so that it works
    on no more rows than there are.
    """
    n_rows = None
    if uses_triton(hidden):
        n_rows = counts[:1]
    else:
        index = index[: int(counts[Count.N_ROWS])]
    logged = action.index_select(0, index)
    check_ids(logged, items.shape[0], n_rows, rows=index)
    return hidden.index_select(0, index), logged, n_rows
