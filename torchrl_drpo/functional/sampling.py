"""Lists drawn without replacement, and how likely each place was given the places before it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction


class DrawnLists(NamedTuple):
    """Lists that were drawn, and their propensities.

    Attributes:
        indices: what was drawn, int64 ``[*B, k]``; -1 where nothing was left.
        log_probs: log-probability of each place given the places before it, in nats, float64
            ``[*B, k]``; -inf where nothing was left. Their sum over a list is the list's.
    """

    indices: Tensor
    log_probs: Tensor


def nucleus(scores: Tensor, top_p: float, *, least: int = 1) -> Tensor:
    r"""Scores of the nucleus; -inf elsewhere.

    The nucleus is the smallest set of the likeliest choices under ``softmax(scores)`` whose
    probability is at least ``top_p``; of equal ones the first are taken. Source: Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751, equation 2.

    Args:
        scores: unnormalised log-probabilities, ``[*B, V]``; -inf is no choice.
        top_p: in (0, 1]; 1 leaves the scores as they are.
        least: so many of the likeliest stay in any case, at least 1.

    Returns:
        Shape ``[*B, V]``, not normalised again.

    Raises:
        ValueError: if ``top_p`` lies outside (0, 1], or ``least`` is below 1.

    Examples:
        >>> scores = torch.tensor([0.5, 0.1, 0.3, 0.1]).log()
        >>> nucleus(scores, 0.75).exp()
        tensor([0.5000, 0.0000, 0.3000, 0.0000])
        >>> nucleus(scores, 0.1, least=3).exp()
        tensor([0.5000, 0.1000, 0.3000, 0.0000])
    """
    check_fraction("top_p", top_p)
    if least < 1:
        raise ValueError(f"least must be at least 1, got {least}")
    if top_p == 1:
        return scores
    ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    chance = ordered.double().softmax(-1)  # float32 would lose the tail of a million
    inside = chance.cumsum(-1) - chance < top_p
    inside[..., :least] = True
    return scores.masked_fill(~torch.empty_like(inside).scatter_(-1, order, inside), -torch.inf)


def draw_lists(scores: Tensor, k: int, generator: torch.Generator | None = None) -> DrawnLists:
    r"""Draws ``k`` choices a row one after another, none twice (Plackett and Luce's law).

    Place ``j`` is drawn by ``softmax`` of the scores that are left. All are drawn at once: the
    ``k`` largest of scores plus standard Gumbel noise have this law (Kool, van Hoof and Welling
    2019, "Stochastic Beams and Where to Find Them", arXiv 1903.06059). The normaliser of place
    ``j`` is added up from the last place to the first, never by taking away what was drawn, so it
    keeps its digits when little is left.

    Args:
        scores: unnormalised log-probabilities, ``[*B, V]``; -inf is never drawn.
        k: how many, in [1, V].
        generator: of the noise; torch's own by default.

    Raises:
        ValueError: if ``k`` lies outside [1, V].

    Examples:
        >>> scores = torch.tensor([0.6, 0.3, 0.1]).log()
        >>> drawn = draw_lists(scores, 2, torch.Generator().manual_seed(0))
        >>> drawn.indices.tolist(), drawn.log_probs.exp().tolist()
        ([..., ...], [..., ...])
    """
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k must lie in [1, {scores.shape[-1]}], got {k}")
    scores = scores.double()  # noise of float32 has too few values to decide among a million
    noise = torch.empty_like(scores).exponential_(generator=generator).log_().neg_()
    index = (scores + noise).topk(k, -1).indices
    chosen = scores.gather(-1, index)
    rest = scores.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
    left = torch.cat([rest, chosen.flip(-1)], -1).logcumsumexp(-1)[..., 1:].flip(-1)
    nothing = chosen == -math.inf
    return DrawnLists(
        index.masked_fill(nothing, -1), (chosen - left).masked_fill(nothing, -math.inf)
    )
