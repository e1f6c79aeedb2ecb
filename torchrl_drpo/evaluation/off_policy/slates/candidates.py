"""Few candidates: every slate of them, its probability, and what stands in a slot how often."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

#: Most slates that are enumerated: of 10 candidates, slates of up to 5.
_MOST_SLATES = 50_000


@dataclass(frozen=True)
class SlotMoments:
    """How often a policy shows an item in a slot, and two items in two slots.

    Attributes:
        slot: probability of item k at position l, ``[*B, L, K]``.
        pairs: probability of both of two such events, ``[*B, L * K, L * K]``; its diagonal is
            ``slot``.
    """

    slot: Tensor
    pairs: Tensor


def ordered_slates(candidates: int, length: int) -> Tensor:
    """All slates of different candidates, int64 ``[M, length]`` with M = K! / (K - L)!.

    Raises:
        ValueError: for more slates than can be enumerated, or fewer candidates than positions.

    Example:
        >>> ordered_slates(3, 2).tolist()
        [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    """
    if not 1 <= length <= candidates:
        raise ValueError(f"length must lie in [1, {candidates}], the candidates, got {length}")
    count = math.perm(candidates, length)
    if count > _MOST_SLATES:
        raise ValueError(
            f"{candidates} candidates make {count:,} slates of {length}, and {_MOST_SLATES:,} can "
            "be enumerated; take fewer candidates, or an estimator that needs no marginals: "
            "reward_interaction_ips"
        )
    return torch.tensor(list(permutations(range(candidates), length)))


def plackett_luce_log_probs(logits: Tensor, slates: Tensor) -> Tensor:
    r"""Conditionals :math:`\log \pi(a_l|x, a_{<l})` of a Plackett-Luce policy, ``[*B, M, L]``.

    Each item is drawn by softmax among those that do not stand above. Source: Plackett 1975, "The
    analysis of permutations".

    Args:
        logits: of the candidates, ``[*B, K]``; ``-inf`` for one that cannot be shown.
        slates: int64 ``[M, L]``, the same for all of the batch, or each row's own ``[*B, M, L]``.
            Positions that a shorter slate does not have may hold any candidate.

    Example:
        >>> logits = torch.tensor([0.5, 0.25, 0.25]).log()
        >>> plackett_luce_log_probs(logits, torch.tensor([[0, 2]])).exp()
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    logits = logits.detach().double()
    left = logits.unsqueeze(-2).expand(*logits.shape[:-1], *_shape_of(slates, logits))
    out = []
    for item in slates.unbind(-1):
        at = item.expand(left.shape[:-1]).unsqueeze(-1)
        chosen = left.gather(-1, at).squeeze(-1)
        # A slate that cannot be: without the test, what is left of nothing would be NaN.
        out.append(torch.where(chosen > -torch.inf, chosen - left.logsumexp(-1), -torch.inf))
        left = left.scatter(-1, at, -torch.inf)
    return torch.stack(out, -1)


def slot_moments(slates: Tensor, log_prob: Tensor, candidates: int) -> SlotMoments:
    r"""Of a policy over enumerated slates: :math:`E[1_s]` and :math:`E[1_s 1_s^\top]`.

    Args:
        slates: int64 ``[M, L]``; all that the policy can show.
        log_prob: of each slate, ``[*B, M]``: conditionals summed over positions.
        candidates: K.

    Raises:
        ValueError: for probabilities that do not sum to 1.

    Example:
        >>> slates = ordered_slates(3, 2)
        >>> log_prob = plackett_luce_log_probs(torch.zeros(3), slates).sum(-1)
        >>> slot_moments(slates, log_prob, 3).slot
        tensor([[0.3333, 0.3333, 0.3333],
                [0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """
    probability = log_prob.detach().double().exp()
    off = (probability.sum(-1) - 1).abs().max().item()
    if not off < 1e-4:
        raise ValueError(
            f"the probabilities of all slates must sum to 1, and miss it by {off:.3g}: are these "
            "all slates, and log_prob the whole slate's (conditionals summed over positions)?"
        )
    shown = torch.nn.functional.one_hot(slates, candidates).double().flatten(1)
    slot = (probability @ shown).unflatten(-1, (slates.shape[1], candidates))
    return SlotMoments(slot, torch.einsum("...m,mi,mj->...ij", probability, shown, shown))


def _shape_of(slates: Tensor, logits: Tensor) -> tuple[int, int]:
    count = logits.shape[-1]
    if slates.ndim < 2 or slates.numel() == 0 or not 0 <= slates.min() <= slates.max() < count:
        raise ValueError(f"slates [*B, M, L] must hold candidates in [0, {count})")
    return slates.shape[-2], count
