"""Item vectors for policies over embeddings: the item table's, or found in who was shown what."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.pipeline.rows import SplitLog

_OVERSAMPLED = 16  # directions beyond the wanted ones, which make the last of those accurate
_POWER_STEPS = 8
_FLOOR = 1e-4  # of singular values: what rounding leaves; those of real audiences are larger
#: Items that are looked at together; a multiple of 16, see _with_random_rows.
_ITEMS_AT_A_TIME = 65_536


class ItemVectors(NamedTuple):
    """Vectors of all items of a log.

    Attributes:
        vectors: float32 ``[V, D]``; only their directions are used. Not to be written to: they may
            be the log's own.
        source: ``"item table"`` or ``"training rows"``.
        unknown: number of items about which the source says nothing (no vector, or zeros). Each has
            a random direction: in many dimensions that lies near nothing and is hardly ever served;
            in two or three it lies among the others.
    """

    vectors: Tensor
    source: str
    unknown: int


class FoundVectors(NamedTuple):
    """Vectors of those items of a log about which there is anything to say.

    Attributes:
        vectors: float32 ``[V, D]``. Not to be written to: they may be the log's own.
        source: ``"item table"`` or ``"training rows"``.
        unknown: items without a vector, whose rows are zeros, bool ``[V]``.
    """

    vectors: Tensor
    source: str
    unknown: Tensor


def item_vectors(data: SplitLog, dim: int, *, seed: int = 0) -> ItemVectors:
    """:func:`found_vectors`, and a random direction for every item without one.

    Args:
        data: the log.
        dim: width, where they are factorised; an item table's vectors have their own.
        seed: of the factorisation, and of the directions of unknown items.

    Raises:
        ValueError: as :func:`found_vectors` does.
    """
    vectors, source, unknown = found_vectors(data, dim, seed=seed)
    count = int(unknown.sum())
    filled = _with_random_rows(vectors, unknown, seed) if count else vectors
    return ItemVectors(filled, source, count)


def found_vectors(data: SplitLog, dim: int, *, seed: int = 0) -> FoundVectors:
    """The vectors that the log's item table has, or else :func:`factorised_vectors`.

    Args:
        data: the log.
        dim: width, where they are factorised; an item table's vectors have their own.
        seed: of the factorisation.

    Raises:
        ValueError: for a log with neither an embedding in its item table nor users, a vector that
            is not finite, or a source without a single vector that is not zero.
    """
    vectors, source = data.log.item_embeddings, "item table"
    if vectors is None:
        schema = data.log.schema
        if schema.user is None:
            raise ValueError(
                "there are no item vectors: name the item table and its "
                "`embedding` column in the schema (items=ItemTable(path=..., id=..., "
                "embedding=...)); without users they cannot be found in the log"
            )
        train = data.log.split("train")
        vectors = factorised_vectors(
            train.column("user"),
            train.column("action"),
            num_users=len(data.log.users),
            num_items=data.num_items,
            dim=dim,
            seed=seed,
        )
        source = "training rows"
    unknown = _unknown_items(vectors, data, source)
    if unknown.all():
        why = (
            "does the item table's id column hold the ids of the log?"
            if source == "item table"
            else "all users were shown the same items, which tells none of them from the others; "
            "name an item table with an `embedding` column in the schema"
        )
        raise ValueError(f"none of the {len(vectors)} items has a vector that is not zero; {why}")
    return FoundVectors(vectors, source, unknown)


def _unknown_items(vectors: Tensor, data: SplitLog, source: str) -> Tensor:
    """Which items have no vector, bool ``[V]``; raises ``ValueError`` for one that is not finite.

    Item tables may be larger than what else is in memory: blocks of rows leave no copy of them.
    """
    largest = torch.cat([block.abs().amax(-1) for block in vectors.split(_ITEMS_AT_A_TIME)])
    broken = (~largest.isfinite()).nonzero().squeeze(-1)
    if broken.numel():
        item = int(broken[0])
        raise ValueError(
            f"the vector of item {data.items.decode([item])[0]!r} ({source}) must be finite but is "
            f"{_shown(vectors[item])} ({len(broken)} such items); mend them, or leave these items "
            "out of the item table: each then gets a random direction"
        )
    return largest == 0


def _shown(vector: Tensor) -> str:
    """The first numbers of a vector."""
    numbers = ", ".join(f"{number:g}" for number in vector[:4].tolist())
    return f"[{numbers}{', ...' if len(vector) > 4 else ''}]"


def _with_random_rows(vectors: Tensor, where: Tensor, seed: int) -> Tensor:
    """A copy with random rows at ``where``: those of one ``randn`` of its shape, made in blocks.

    Blocks of whole sixteens, the last of at least one, draw what a single call would draw.
    """
    generator = torch.Generator().manual_seed(seed)
    out, count = vectors.clone(), len(vectors)
    start = 0
    while start < count:
        stop = min(start + _ITEMS_AT_A_TIME, count)
        stop = count if (count - stop) * vectors.shape[1] < 16 else stop
        random = torch.randn(stop - start, vectors.shape[1], generator=generator)
        mine = where[start:stop]
        out[start:stop][mine] = random[mine]
        start = stop
    return out


def factorised_vectors(
    user: Tensor, item: Tensor, *, num_users: int, num_items: int, dim: int, seed: int = 0
) -> Tensor:
    r"""Item vectors from who was shown what: correspondence analysis of users and items.

    With M = 1 where a user was shown an item and the degrees of users and items on the diagonals
    :math:`D_u, D_i`, the items of :math:`D_u^{-1/2} M D_i^{-1/2} \approx U S V^\top` have the rows
    of :math:`V S` as their vectors: items with the same audience point the same way, and an item
    that everybody was shown says nothing. The pair of the degrees themselves is left out.

    Source: Greenacre, "Correspondence Analysis in Practice", 3rd ed. 2017 (principal coordinates,
    each but for its own length); randomised SVD.

    Args:
        user: int64 ``[N]`` in ``[0, num_users)``.
        item: int64 ``[N]`` in ``[0, num_items)``; rows that repeat a pair count once.
        num_users: U.
        num_items: V.
        dim: D, at most ``min(U, V) - 1`` of which are found; narrower vectors come back then.
        seed: of the randomised SVD.

    Returns:
        float32 ``[V, D]``; zeros for items without rows, and for all where nobody differs.

    Raises:
        ValueError: if there are fewer than two users or items, or ``dim`` is below 1.

    Examples:
        Two audiences, each with its own items:

        >>> user = torch.arange(40).repeat_interleave(3)
        >>> item = torch.randint(0, 5, (120,)) + 5 * (user % 2)
        >>> vectors = factorised_vectors(user, item, num_users=40, num_items=10, dim=2)
        >>> alike = torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
        >>> bool(alike[:5, :5].mean() > alike[:5, 5:].mean() + 0.5)
        True
    """
    check_positive("dim", dim)
    if min(num_users, num_items) < 2:
        raise ValueError(
            "vectors are found in who differs from whom: expected at least 2 users and 2 items, "
            f"got {num_users} and {num_items}; an item table with an `embedding` column needs none"
        )
    pair = torch.unique(user * num_items + item)  # int64: more pairs than a log could ever hold
    row, column = pair // num_items, pair % num_items
    of_user = torch.bincount(row, minlength=num_users)
    of_item = torch.bincount(column, minlength=num_items)
    weight = (of_user[row] * of_item[column]).double().rsqrt().float()
    matrix = torch.sparse_coo_tensor(
        torch.stack([row, column]), weight, (num_users, num_items), check_invariants=False
    ).coalesce()
    width = min(dim + 1 + _OVERSAMPLED, num_users, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        users, strength, items = torch.svd_lowrank(matrix, q=width, niter=_POWER_STEPS)
    # The degrees' own pair has strength 1, as has any other of a log that falls into parts: it is
    # taken out by what it is, not as the first that comes.
    first = [F.normalize(degree.sqrt().float(), dim=0) for degree in (of_user, of_item)]
    core = strength.diag() - torch.outer(users.T @ first[0], items.T @ first[1])
    _, strength, turn = torch.linalg.svd(core)
    strength = torch.where(strength > _FLOOR, strength, 0.0)  # else noise would pass for a vector
    return ((items @ turn.T) * strength)[:, : min(dim, width - 1)].contiguous()
