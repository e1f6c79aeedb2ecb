"""One pass over the catalogue for each question: argmax, top-k, a sample, a list of samples.

All take ``hidden [N, D]``, ``items [V, D]``, ``bias [V] | None`` and ``1 / temperature`` and hold
one tile of scores at a time. On the CPU, where looking is free, a row whose scores make no
distribution is an error: it has no best item, and any index would pass for one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype, scaled_logits

from torchrl_drpo.distributions._tiles import finite_or_zero, row_blocks, score_tiles
from torchrl_drpo.functional.checks import DivergedError, is_finite
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.masks import without
from torchrl_drpo.functional.sampling import DrawnLists, draw_lists, nucleus

#: Scores that lists are drawn from at a time, as a whole: 32 MiB of float64, some of them at once.
_DRAWN_FROM = 1 << 22


def check_scores(found: Tensor | None, first_row: int = 0) -> None:
    """Raises :class:`DivergedError` where a row's best score, or their sum, is no finite number.

    Args:
        found: one number a row that is NaN or infinite if the row's scores are, ``[N, ...]``; of
            a row whose every item is excluded it is ``-inf``.
        first_row: the number of the first of these rows.
    """
    if found is None or not reads_are_free(found) or is_finite(found):
        return
    bad = ~found.isfinite().reshape(found.shape[0], -1).all(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        worst = found[row].reshape(-1)
        value = worst[~worst.isfinite()][0].item()
        what = "every item is excluded" if value == -math.inf else f"its scores hold {value}"
        raise DivergedError(
            f"row {first_row + row} has no distribution over items: {what} ({int(bad.sum())} of "
            f"{len(bad)} rows); has the policy diverged?"
        )


def _blocks(hidden: Tensor, items: Tensor) -> Any:
    return row_blocks(hidden.shape[0], items.shape[0], hidden.device)


@torch.no_grad()
def argmax(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
) -> Tensor:
    """Index of the largest score of each row, int64 ``[N]``; the lowest index of equals."""
    out = torch.zeros(hidden.shape[0], dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        best: Tensor | None = None
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            value, index = scores.max(-1)
            if best is None:
                best, out[rows] = value, index
            else:
                out[rows] = torch.where(value > best, index + tile.start, out[rows])
                best = torch.maximum(best, value)
        check_scores(best, rows.start)
    return out


@torch.no_grad()
def topk(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float, *, k: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[N, k]`` and indices ``[N, k]`` of the largest scores, descending."""
    scores, indices, lse = best_scores(hidden, items, bias, inverse_temperature, k=k)
    check_scores(lse)
    return scores - lse[:, None], indices


@torch.no_grad()
def best_scores(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float, *, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest scores ``[N, k]``, descending, their indices, and each row's log-normaliser."""
    values = hidden.new_empty((hidden.shape[0], k), dtype=accumulation_dtype(hidden.dtype))
    indices = torch.empty((hidden.shape[0], k), dtype=torch.long, device=hidden.device)
    normaliser = values.new_full((hidden.shape[0],), -torch.inf)
    for rows in _blocks(hidden, items):
        lse = normaliser[rows]
        top, where = values[rows, :0], indices[rows, :0]
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            lse = torch.logaddexp(lse, scores.logsumexp(-1))
            value, index = scores.topk(min(k, scores.shape[-1]), sorted=False)
            top = torch.cat([top, value], -1)
            where = torch.cat([where, index + tile.start], -1)
            top, keep = top.topk(min(k, top.shape[-1]))
            where = where.gather(-1, keep)
        values[rows], indices[rows], normaliser[rows] = top, where, lse
    return values, indices, normaliser


@torch.no_grad()
def sample(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    *,
    num_samples: int,
) -> Tensor:
    """Draws ``num_samples`` items a row, int64 ``[N, num_samples]``.

    Gumbel-max over the tiles (a tile's score is its logsumexp) and the inverse of the cumulative
    distribution within a tile: the same law as Gumbel-max over the items, for two random numbers
    a tile instead of one an item, and without float32 noise deciding among a million items.
    """
    out = torch.zeros((hidden.shape[0], num_samples), dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        best: Tensor | None = None
        highest: Tensor | None = None
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            shift = finite_or_zero(scores.amax(-1, keepdim=True))
            cumulative = (scores - shift).exp_().cumsum(-1)
            total = cumulative[:, -1:]
            uniform = torch.rand(
                (scores.shape[0], num_samples), dtype=scores.dtype, device=scores.device
            )
            inside = torch.searchsorted(cumulative, uniform * total, right=True)
            inside = inside.clamp_max_(scores.shape[-1] - 1) + tile.start
            gumbel = -torch.empty_like(uniform).exponential_().log_()
            level = total.log() + shift
            race = gumbel + level
            if best is None:
                best, highest, out[rows] = race, level, inside
            else:
                out[rows] = torch.where(race > best, inside, out[rows])
                best, highest = torch.maximum(best, race), torch.maximum(highest, level)
        check_scores(highest, rows.start)
    return out


@torch.no_grad()
def draw_in_order(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float, *, k: int
) -> Tensor:
    """Draws k items without replacement a row, in the order of the draws, int64 ``[N, k]``.

    The k best after Gumbel noise, which is float64: of a million float32 numbers many would be
    equal. -1 where fewer items are left. Unlike :func:`sample_lists`, which knows nuclei and the
    propensities of places, it holds a tile of scores at a time.
    """
    out = torch.empty((hidden.shape[0], k), dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        count = rows.stop - rows.start
        top = torch.empty((count, 0), dtype=torch.float64, device=hidden.device)
        where = torch.empty((count, 0), dtype=torch.long, device=hidden.device)
        highest: Tensor | None = None
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            best = scores.amax(-1)
            highest = best if highest is None else torch.maximum(highest, best)
            noise = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)
            race = scores - noise.exponential_().log_()
            value, index = race.topk(min(k, race.shape[-1]), sorted=False)
            top, where = torch.cat([top, value], -1), torch.cat([where, index + tile.start], -1)
            top, keep = top.topk(min(k, top.shape[-1]))
            where = where.gather(-1, keep)
        check_scores(highest, rows.start)
        out[rows] = where.masked_fill(top == -torch.inf, -1)
    return out


@torch.no_grad()
def sample_lists(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    *,
    k: int,
    top_p: float,
    exclude: Tensor | None,
    generator: torch.Generator | None,
) -> DrawnLists:
    """Draws lists of ``k`` different items a row; see ``CatalogueCategorical.sample_lists``."""
    step = max(1, _DRAWN_FROM // len(items))
    parts = []
    for start in range(0, max(1, len(hidden)), step):
        scores = scaled_logits(hidden[start : start + step], items, bias, inverse_temperature)
        check_scores(scores.logsumexp(-1), start)
        if exclude is not None:
            own = exclude if exclude.ndim == 1 else exclude[start : start + step]
            scores = without(scores, own)
        parts.append(draw_lists(nucleus(scores, top_p, least=k), k, generator))
    return DrawnLists(*map(torch.cat, zip(*parts, strict=True)))
