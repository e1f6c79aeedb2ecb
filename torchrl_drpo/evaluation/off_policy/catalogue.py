r"""Sums over a whole catalogue, in one pass and tile by tile.

Notation   n rows, V items; z scores of the policy, p = softmax(z).

A policy's probability of one item needs all scores of the row, and while they pass by, everything
else that evaluation asks for is a sum of theirs: the expectation of a reward model,
:math:`\sum_a p_a \hat q_a`, and the share of the policy on items that no row shows. The scores and
the predictions of all items exist a tile at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from torchrl_drpo.distributions import CatalogueCategorical

#: Rows and items of a tile: 1 MiB of float32 stays in a core's cache, which makes a pass over a
#: million items half as long again as four times that; an accelerator wants few, large launches.
TILE = {"cpu": (256, 1024), "accelerator": (4096, 8192)}

#: From rows to a function from items to predictions of the former for the latter, [rows, items].
RewardTiles = Callable[[slice], Callable[[slice], Tensor]]


class CatalogueSums(NamedTuple):
    r"""What one pass over the catalogue finds, float64, ``[n]`` each."""

    log_normaliser: Tensor
    r"""Logarithm of :math:`\sum_a \exp z_a`."""
    value: Tensor | None
    r"""Expectation of the predictions, :math:`\sum_a p_a \hat q_a`."""
    outside: Tensor | None
    """Share of the policy on items outside each of some sets, ``[S, n]``."""


def is_enumerable(dist: Distribution) -> bool:
    """Whether the scores of all actions can be walked through."""
    return isinstance(dist, CatalogueCategorical | Categorical)


def num_actions(dist: Distribution) -> int:
    """V, of a policy that :func:`is_enumerable`."""
    return dist.num_items if isinstance(dist, CatalogueCategorical) else dist.logits.shape[-1]


@torch.no_grad()
def catalogue_sums(
    dist: Distribution,
    *,
    reward: RewardTiles | None = None,
    inside: Tensor | None = None,
    rows_at_a_time: int | None = None,
) -> CatalogueSums:
    """One pass over the catalogue.

    Args:
        dist: a :class:`~torchrl_drpo.CatalogueCategorical`, or torch's ``Categorical``.
        reward: predictions, by rows and tiles of items.
        inside: sets of items, bool ``[S, V]``; the policy's share of all others is wanted.
        rows_at_a_time: at most so many rows are passed to ``reward`` together.

    Example:
        >>> dist = CatalogueCategorical(torch.zeros(1, 2), torch.randn(4, 2))
        >>> quality = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> sums = catalogue_sums(dist, reward=lambda rows: lambda items: quality[:, items])
        >>> round(sums.value.item(), 4), round(sums.log_normaliser.exp().item(), 4)
        (2.5, 4.0)
    """
    count, items, device = dist.batch_shape.numel(), num_actions(dist), _device(dist)
    sets = torch.zeros(0, items, dtype=torch.bool) if inside is None else inside
    counted = torch.cat([torch.ones(1, items), (~sets).float()]).to(device)
    out = torch.zeros(2 + len(sets), count, dtype=torch.float64)
    for rows in _steps(count, min(_tile(device)[0], rows_at_a_time or count)):
        tile_of = None if reward is None else reward(rows)
        top = torch.full((rows.stop - rows.start, 1), -torch.inf, device=device)
        sums = torch.zeros(2 + len(sets), len(top), dtype=torch.float64, device=device)
        for tile, scores in _score_tiles(dist, rows):
            new = torch.maximum(top, scores.amax(-1, keepdim=True))
            shift = new.masked_fill(new == -torch.inf, 0.0)  # all items so far are excluded
            weight = scores.sub_(shift).exp_()
            sums *= (top - shift).exp()[:, 0].double()
            sums[:-1] += counted[:, tile].to(weight) @ weight.T
            if tile_of is not None:
                sums[-1] += torch.linalg.vecdot(weight, tile_of(tile).to(weight.dtype))
            top = new
        sums[1:] /= sums[0].clone()
        sums[0] = sums[0].log() + top[:, 0]
        out[:, rows] = sums.cpu()
    value, outside = (None if reward is None else out[-1]), (None if inside is None else out[1:-1])
    return CatalogueSums(out[0], value, outside)


def scores_of(dist: Distribution, action: Tensor) -> Tensor:
    """The policy's scores, before they are normalised, of one action a row, float64 ``[n]``.

    Raises:
        ValueError: for an action outside the catalogue.
    """
    bad = (action < 0) | (action >= num_actions(dist))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"action must lie in [0, {num_actions(dist)}) but row {row} holds "
            f"{action[row].item()}: is the policy that of this log's catalogue?"
        )
    if not isinstance(dist, CatalogueCategorical):
        return _flat_logits(dist).gather(-1, action.unsqueeze(-1))[:, 0].double()
    hidden = dist.hidden.reshape(-1, dist.hidden.shape[-1])
    score = torch.linalg.vecdot(hidden.double(), dist.items[action].double())
    if dist.bias is not None:
        score = score + dist.bias[action].double()
    return score / dist.temperature


def at_rows(dist: Distribution, rows: Tensor) -> Distribution:
    """The policy at some of its rows, which may repeat."""
    if not isinstance(dist, CatalogueCategorical):
        return Categorical(logits=_flat_logits(dist)[rows], validate_args=False)
    hidden = dist.hidden.reshape(-1, dist.hidden.shape[-1])[rows]
    return CatalogueCategorical(hidden, dist.items, dist.bias, dist.temperature)


def _score_tiles(dist: Distribution, rows: slice) -> Iterator[tuple[slice, Tensor]]:
    """Items and new tensors of their scores, ``[rows, items]``, at least float32."""
    width = _tile(_device(dist))[1]
    if not isinstance(dist, CatalogueCategorical):
        logits = _flat_logits(dist)[rows]
        for tile in _steps(logits.shape[-1], width):
            yield tile, logits[:, tile].clone()
        return
    scale = 1 / dist.temperature
    dtype = torch.promote_types(dist.hidden.dtype, torch.float32)
    hidden = scale * dist.hidden.reshape(-1, dist.hidden.shape[-1])[rows].to(dtype)
    for tile in _steps(dist.num_items, width):
        scores = hidden @ dist.items[tile].to(dtype).T
        yield tile, scores if dist.bias is None else scores.add_(scale * dist.bias[tile].to(dtype))


def _flat_logits(dist: Distribution) -> Tensor:
    logits: Tensor = dist.logits
    return logits.reshape(-1, logits.shape[-1])


def _device(dist: Distribution) -> torch.device:
    one: Tensor = dist.hidden if isinstance(dist, CatalogueCategorical) else dist.logits
    return one.device


def _tile(device: torch.device) -> tuple[int, int]:
    return TILE["cpu" if device.type == "cpu" else "accelerator"]


def _steps(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
