"""Directions of embeddings, and the simulator's reward, which depends on directions only."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Scales vectors to Euclidean norm one; a zero vector stays zero.

    The largest entry is divided out first, so that vectors whose squared norm leaves the range
    of the type (an action of a diverged policy) keep their direction.

    Args:
        x: vectors, shape ``[*B, d]``.

    Returns:
        Shape ``[*B, d]``.

    Examples:
        >>> import torch
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000],
                [1.0000, 0.0000]])
    """
    largest = x.abs().amax(-1, keepdim=True)
    return torch.nn.functional.normalize(x / largest.clamp_min(torch.finfo(x.dtype).tiny), dim=-1)


def cosine_reward(cosine: Tensor, delta: float) -> Tensor:
    r"""The simulator's latent reward, :math:`\exp(-(1 - \cos) / (2\delta^2))`, in (0, 1].

    Source: arXiv 2602.10430, appendix (simulator).

    Args:
        cosine: cosine between an item (or a raw action) and the user's interest, any shape.
        delta: width of the reward, positive.

    Returns:
        The shape of ``cosine``.

    Examples:
        >>> import torch
        >>> cosine_reward(torch.tensor([1.0, 0.5, 0.0]), delta=0.5)
        tensor([1.0000, 0.3679, 0.1353])
    """
    return torch.exp((cosine - 1.0) / (2.0 * delta**2))
