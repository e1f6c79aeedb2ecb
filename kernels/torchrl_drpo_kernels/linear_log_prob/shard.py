"""``linear_log_prob`` of a part of the catalogue, of which the parts make up the whole.

    log p_i = sum_r score[r, i] - logsumexp_r lse[r, i]

over shards r of the items: the logged item's score comes from the one shard that holds it, and
each shard's normaliser from the op as it is. No process talks to another here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo_kernels.linear_log_prob import reference
from torchrl_drpo_kernels.linear_log_prob.op import linear_log_prob


def linear_log_prob_shard(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None = None,
    inverse_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What a shard of the items contributes to each row's log-probability.

    Args:
        hidden: policy outputs, shape ``[N, D]``.
        items: embeddings of the shard's items, of which there may be none, shape ``[Vr, D]``.
        action: the logged item's place in the shard, in ``[0, Vr)``; negative where it lies in
            another one. int32 or int64, shape ``[N]``.
        bias: added to each item's score before the temperature, shape ``[Vr]``.
        inverse_temperature: ``1 / T``, above 0.

    Returns:
        ``score`` (of the logged item, 0 where it lies elsewhere) and ``lse`` (the shard's
        log-normaliser, ``-inf`` without items), in nats, shape ``[N]``; float32, or float64 for
        float64. Differentiable in ``hidden``, ``items`` and ``bias``.

    Raises:
        ValueError: as :func:`~torchrl_drpo_kernels.linear_log_prob.op.linear_log_prob`.

    >>> hidden, items = torch.randn(3, 8), torch.randn(5, 8)
    >>> whole, _ = linear_log_prob(hidden, items, torch.tensor([0, 4, 2]))
    >>> first = linear_log_prob_shard(hidden, items[:3], torch.tensor([0, -1, 2]))
    >>> second = linear_log_prob_shard(hidden, items[3:], torch.tensor([-1, 1, -1]))
    >>> parts = first[0] + second[0] - torch.logaddexp(first[1], second[1])
    >>> torch.allclose(parts, whole, atol=1e-5)
    True
    """
    mine = action >= 0
    if items.shape[0] == 0:
        # A value that depends on hidden, so that its gradient (0) is sent like the others'.
        own = hidden[:, 0].to(reference.accumulation_dtype(hidden.dtype))
        nothing = torch.zeros_like(mine)
        return torch.where(nothing, own, 0.0), torch.where(nothing, own, -torch.inf)
    log_prob, lse = linear_log_prob(
        hidden, items, action.clamp_min(0), None, bias, inverse_temperature
    )
    return torch.where(mine, log_prob + lse, 0.0), lse
