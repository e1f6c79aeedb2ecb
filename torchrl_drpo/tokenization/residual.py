"""Residual k-means: each level quantises what the levels before it left of a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_finite, check_positive
from torchrl_drpo.tokenization.assignment import nearest, row_tiles
from torchrl_drpo.tokenization.balance import balanced as assign_balanced
from torchrl_drpo.tokenization.kmeans import kmeans
from torchrl_drpo.tokenization.leaves import place_on_leaf, prefixes

#: Vectors that centroids are fitted to; all of them are then given codes.
FITTED_TO = 262_144
#: Balanced centroids cost some ten times the work: they are fitted to so many vectors a code.
BALANCED_FROM = 256


class ResidualCodes(NamedTuple):
    """Codes of vectors, and what they stand for.

    Attributes:
        codes: int64 ``[V, T]``, from 0, coarsest level first.
        codebooks: the centroids of each level, float32 ``[K, D]``; fewer than were asked for where
            fewer vectors differ. The first level's hold the vectors' mean.
        error: share of the vectors' variance that the codes up to each level leave open.
    """

    codes: Tensor
    codebooks: list[Tensor]
    error: list[float]

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors that codes ``[*B, T]`` stand for, ``[*B, D]``."""
        return sum(book[codes[..., level]] for level, book in enumerate(self.codebooks))


def residual_kmeans(
    vectors: Tensor,
    *,
    levels: int = 3,
    codes: int = 256,
    balanced: bool = False,
    seed: int = 0,
    iterations: int = 30,
    fitted_to: int = FITTED_TO,
    progress: Callable[[int, int], None] | None = None,
) -> ResidualCodes:
    """Semantic IDs: a code a level for each vector, such that like vectors share their first codes.

    Memory is one float32 copy of the vectors, and some MiB. Of more vectors than ``fitted_to`` a
    random part is fitted; every one gets its exactly nearest code.

    Source: Juang and Gray 1982, "Multiple stage vector quantization for speech coding"; for
    recommendation Rajput et al. 2023 (TIGER, arXiv 2305.05065), with k-means in the place of an
    autoencoder as in OneRec (arXiv 2502.18965).

    Args:
        vectors: finite, ``[V, D]``; read as float32.
        levels: T.
        codes: codes of each level.
        balanced: give no code of a level to more than ``ceil(V / codes)`` items.
        seed: of everything random; the same one gives the same codes.
        iterations: of k-means, at most.
        fitted_to: vectors that centroids are fitted to, at most.
        progress: told (levels done, levels).

    Raises:
        ValueError: for numbers below 1, vectors that are not finite, or that are all the same.

    >>> corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [8.0, 0.0], [8.0, 1.0]])
    >>> found = residual_kmeans(corners, levels=2, codes=2)
    >>> bool(found.codes[0, 0] == found.codes[1, 0]), found.error
    (True, [0.0153..., 0.0])
    >>> bool(torch.equal(found.decode(found.codes), corners))
    True
    """
    for name, value in (("levels", levels), ("codes", codes), ("iterations", iterations)):
        check_positive(name, value)
    check_positive("fitted_to", fitted_to)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"expected vectors [V, D], got shape {tuple(vectors.shape)}")
    check_finite("a vector", vectors, hint="mend these items, or leave them out")
    generator = torch.Generator().manual_seed(seed)
    mean, rest, whole = _centred(vectors)
    if whole == 0.0:
        raise ValueError(
            f"all {len(vectors)} vectors are the same, which tells no item from another"
        )
    count = len(vectors)
    fitted = torch.arange(count)
    fitted_to = min(fitted_to, BALANCED_FROM * codes) if balanced else fitted_to
    if count > fitted_to:
        fitted = torch.randperm(count, generator=generator)[:fitted_to].sort().values
    out = torch.empty(count, levels, dtype=torch.long)
    books: list[Tensor] = []
    error: list[float] = []
    for level in range(levels):
        options = {"generator": generator, "balanced": balanced, "iterations": iterations}
        found = kmeans(rest if len(fitted) == count else rest[fitted], codes, **options)
        book = found.centroids.float()
        if balanced:
            capacity = -(-count // len(book))
            index, distance, _ = assign_balanced(rest, book, capacity, found.prices)
        else:
            index, distance = nearest(rest, book)
        out[:, level] = index
        for tile in row_tiles(count, rest.shape[1]):
            rest[tile] -= book[index[tile]]
        books.append(book if level else book + mean)
        error.append(distance.sum().item() / whole)
        if progress is not None:
            progress(level + 1, levels)
    return ResidualCodes(out, books, error)


def _centred(vectors: Tensor) -> tuple[Tensor, Tensor, float]:
    """The mean, a float32 copy without it, and the sum of its squares."""
    mean = torch.zeros(vectors.shape[1], dtype=torch.float64)
    tiles = list(row_tiles(*vectors.shape))
    for tile in tiles:
        mean += vectors[tile].double().sum(0)
    mean = (mean / len(vectors)).float()
    rest = torch.empty(vectors.shape)
    whole = 0.0
    for tile in tiles:
        rest[tile] = vectors[tile].float() - mean
        whole += rest[tile].double().square().sum().item()
    return mean, rest, whole


def told_apart(codes: Tensor, popularity: Tensor | None = None) -> Tensor:
    """Codes with one more level, which numbers the items that share all others.

    The most popular of them is 0; every other item has 0 there too.

    Args:
        codes: int64 ``[V, T]``.
        popularity: of each item, ``[V]``; equals go by their number, as do all without it.

    Returns:
        int64 ``[V, T + 1]``, no two rows alike.

    >>> told_apart(torch.tensor([[7, 1], [7, 2], [7, 1]]), torch.tensor([3, 1, 5])).tolist()
    [[7, 1, 1], [7, 2, 0], [7, 1, 0]]
    """
    leaf = prefixes(codes)[-1]
    return torch.cat([codes, place_on_leaf(leaf, popularity)[:, None]], 1)
