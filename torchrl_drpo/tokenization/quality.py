"""How good semantic IDs are: a report on codes, wherever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.tokenization.assignment import row_tiles
from torchrl_drpo.tokenization.collisions import Collisions, HitsLost, collisions, hits_lost
from torchrl_drpo.tokenization.leaves import prefixes
from torchrl_drpo.tokenization.purity import Purity, neighbour_pairs, purity

_ROWS = 1 << 16


@dataclass(frozen=True)
class LevelQuality:
    """One level of codes.

    Attributes:
        used: codes in use.
        perplexity: exp of the entropy of the level's codes over the items: as many equally used
            codes would be as surprising.
        prefixes: different sequences of codes up to here.
        largest: share of the items on the prefix that has most of them.
        spread: share of the vectors' variance within prefixes, which the codes up to here do not
            tell of; ``None`` without vectors.
        neighbours: nearest neighbours in the vectors that share the codes up to here.
        together: items of one user, one after the other, that do.
    """

    used: int
    perplexity: float
    prefixes: int
    largest: float
    spread: float | None
    neighbours: Purity | None
    together: Purity | None


@dataclass(frozen=True)
class CodeQuality:
    """What :func:`code_quality` found.

    Attributes:
        items: items with codes.
        without: items without, which nothing else here counts.
        levels: the levels, coarsest first.
        collisions: items that share all their codes.
        lost: what that costs; ``None`` without events.
    """

    items: int
    without: int
    levels: tuple[LevelQuality, ...]
    collisions: Collisions
    lost: HitsLost | None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""

        def plain(value: Any) -> Any:
            if isinstance(value, tuple) and hasattr(value, "_asdict"):
                return {name: plain(part) for name, part in value._asdict().items()}
            if isinstance(value, float) and value != value:  # no pairs
                return None
            if isinstance(value, dict):
                return {name: plain(part) for name, part in value.items()}
            return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value

        levels = [
            {name: plain(getattr(level, name)) for name in LevelQuality.__annotations__}
            for level in self.levels
        ]
        counts = {"items": self.items, "without_codes": self.without, "levels": levels}
        return {
            **counts,
            "collisions": plain(self.collisions),
            "hits_lost": plain(self.lost),
        }


def code_quality(
    codes: Tensor,
    *,
    vectors: Tensor | None = None,
    together: tuple[Tensor, Tensor] | None = None,
    popularity: Tensor | None = None,
    events: Tensor | None = None,
    seed: int = 0,
) -> CodeQuality:
    """Entropy, collisions and meaning of codes.

    Args:
        codes: int64 ``[V, T]``; -1 where an item has no code (and, behind others, where its
            sequence has ended).
        vectors: what the codes should tell of, ``[V, D]``; rows of zeros are not known.
        together: pairs of items that users had one after the other, two int64 ``[P]``.
        popularity: rows of each item, ``[V]``, which order the items of a leaf.
        events: rows that count as hits, ``[V]``; ``popularity`` by default.
        seed: of the sample of items whose neighbours are looked at.

    Raises:
        ValueError: for codes of another shape, or when no item has any.

    >>> found = code_quality(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0]]))
    >>> found.levels[0].perplexity, found.collisions.colliding
    (2.0, 2)
    """
    if codes.ndim != 2 or codes.shape[1] == 0 or codes.is_floating_point():
        raise ValueError(f"expected integer codes [V, T], got {codes.dtype} {tuple(codes.shape)}")
    coded = (codes[:, 0] >= 0).nonzero().squeeze(-1)
    if not coded.numel():
        raise ValueError(f"none of the {len(codes)} items has a code")
    number = torch.full((len(codes),), -1, dtype=torch.long)
    number[coded] = torch.arange(len(coded))
    codes = codes[coded]
    pairs = None if together is None else _renumbered(together, number)
    near = None
    if vectors is not None:
        vectors = _rows(vectors, coded)
        largest = torch.cat([block.abs().amax(-1) for block in vectors.split(_ROWS)])
        known = largest.nonzero().squeeze(-1)
        vectors = _rows(vectors, known)
        if len(known) > 1:
            near = tuple(known[side] for side in neighbour_pairs(vectors, seed=seed))
    levels = []
    for code, prefix in zip(codes.unbind(-1), prefixes(codes), strict=True):
        counts = torch.unique(code[code >= 0], return_counts=True)[1].double()
        share = counts / counts.sum()
        sizes = torch.bincount(prefix)
        levels.append(
            LevelQuality(
                used=len(counts),
                perplexity=(-(share * share.log()).sum()).exp().item(),
                prefixes=len(sizes),
                largest=sizes.max().item() / len(prefix),
                spread=_spread(vectors, prefix[known]) if near is not None else None,
                neighbours=None if near is None else purity(prefix, *near),
                together=None if pairs is None else purity(prefix, *pairs),
            )
        )
    return CodeQuality(
        items=len(coded),
        without=len(number) - len(coded),
        levels=tuple(levels),
        collisions=collisions(codes),
        lost=_lost(codes, popularity, events, coded),
    )


def _rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """The vectors of some rows; no copy of all of them."""
    return vectors if len(rows) == len(vectors) else vectors[rows]


def _lost(
    codes: Tensor, popularity: Tensor | None, events: Tensor | None, coded: Tensor
) -> HitsLost | None:
    if popularity is None:
        return None
    events = popularity if events is None else events
    if not events[coded].sum() > 0:
        return None
    return hits_lost(codes, popularity[coded], events[coded])


def _renumbered(pairs: tuple[Tensor, Tensor], number: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs both of whose items have codes, by their new numbers."""
    first, second = (number[side] for side in pairs)
    both = (first >= 0) & (second >= 0)
    return first[both], second[both]


def _spread(vectors: Tensor, group: Tensor) -> float:
    """Share of the variance that lies within groups."""
    width = int(group.max()) + 1
    sums = torch.zeros(width, vectors.shape[1], dtype=torch.float64)
    whole, mean = 0.0, torch.zeros(vectors.shape[1], dtype=torch.float64)
    tiles = list(row_tiles(*vectors.shape))
    for tile in tiles:
        rows = vectors[tile].double()
        sums.index_add_(0, group[tile], rows)
        mean += rows.sum(0)
    mean /= len(vectors)
    means = sums / torch.bincount(group, minlength=width).clamp_min(1)[:, None]
    within = 0.0
    for tile in tiles:
        rows = vectors[tile].double()
        within += (rows - means[group[tile]]).square_().sum().item()
        whole += (rows - mean).square_().sum().item()
    return within / whole if whole > 0 else 0.0
