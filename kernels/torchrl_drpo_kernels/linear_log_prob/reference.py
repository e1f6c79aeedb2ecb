"""The specification of ``linear_log_prob`` in plain ATen, and its double-backward path.

    z[i, j]     = inverse_temperature * (h[i] . E[j] + bias[j])
    lse[i]      = logsumexp_j z[i, j]
    log_prob[i] = z[i, a[i]] - lse[i]
    mean[i]     = sum_j exp(z[i, j] - lse[i]) E[j]          (the expected item)

Rows ``i >= n_rows`` are dead: they give zeros, get zero gradient and may hold anything.
Every function materialises the ``[N, V]`` logits; the op exists so that nobody has to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, the type itself for float32 and float64.

    >>> accumulation_dtype(torch.bfloat16), accumulation_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def _autocast_kind(tensor: Tensor) -> str:
    """The device type whose autocast an operation on ``tensor`` would obey, or any."""
    kind = tensor.device.type
    return kind if torch.amp.is_autocast_available(kind) else "cpu"


def scaled_logits(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
) -> Tensor:
    """``inverse_temperature * (hidden @ items.T + bias)``, shape ``[..., V]``, at least float32.

    Under autocast too, which would have the product in half precision.

    >>> scaled_logits(torch.ones(1, 2), torch.eye(2), torch.tensor([0.0, 1.0]), 0.5)
    tensor([[0.5000, 1.0000]])
    """
    dtype = accumulation_dtype(hidden.dtype)
    with torch.autocast(_autocast_kind(hidden), enabled=False):
        logits = hidden.to(dtype) @ items.to(dtype).T
    if bias is not None:
        logits = logits + bias.to(dtype)
    return logits * inverse_temperature


def linear_log_prob(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None = None,
    bias: Tensor | None = None,
    inverse_temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, log-normaliser and expected item of each live row.

    Args:
        hidden: policy outputs, shape ``[N, D]``.
        items: item embeddings, shape ``[V, D]``.
        action: logged item of each row, integers in ``[0, V)``, shape ``[N]``.
        n_rows: number of live rows, one integer, or ``None`` for all of them.
        bias: added to the scores before the temperature, shape ``[V]``.
        inverse_temperature: ``1 / T``.

    Returns:
        ``log_prob [N]`` and ``lse [N]`` in nats, ``mean [N, D]``: float32 (float64 for float64).

    >>> log_prob, lse, mean = linear_log_prob(torch.zeros(1, 2), torch.eye(2), torch.tensor([0]))
    >>> round(log_prob.exp().item(), 4), mean
    (0.5, tensor([[0.5000, 0.5000]]))
    """
    live = None
    if n_rows is not None:
        live = torch.arange(hidden.shape[0], device=hidden.device) < n_rows.reshape(())
        hidden = torch.where(live[:, None], hidden, 0)  # whatever dead rows hold stays out
        action = torch.where(live, action, 0)
    logits = scaled_logits(hidden, items, bias, inverse_temperature)
    lse = logits.logsumexp(-1)
    log_prob = logits.gather(-1, action.long()[:, None])[:, 0] - lse
    with torch.autocast(_autocast_kind(hidden), enabled=False):
        mean = (logits - lse[:, None]).exp() @ items.to(logits.dtype)
    if live is not None:
        log_prob, lse = torch.where(live, log_prob, 0), torch.where(live, lse, 0)
        mean = torch.where(live[:, None], mean, 0)
    return log_prob, lse, mean
