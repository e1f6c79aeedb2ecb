"""A catalogue's semantic IDs as a trie of flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Children(NamedTuple):
    """The children of nodes, padded to the widest node of their level.

    Attributes:
        node: numbers of the children on their level, int64 ``[*, W]``; padding repeats some node.
        code: their codes, numbered from 0 within the level, int64 ``[*, W]``.
        valid: which of them are children, bool ``[*, W]``.
    """

    node: Tensor
    code: Tensor
    valid: Tensor


class CodeTrie(nn.Module):
    """Which code may follow which: the semantic IDs of a catalogue, level by level.

    Nodes of a level are numbered in lexicographic order of their prefixes, so the children of a
    node are a run of consecutive numbers of the next level, and so are the items below it. A level
    is two arrays: where each node's run begins, and each node's code. The items themselves are the
    last level: the children of a full semantic ID are the items that carry it, one for nearly all.

    The codes alone are saved with a state dict; the rest is made of them when they are loaded.

    Args:
        codes: semantic ID of each item, coarsest code first, integers of any range, ``[V, T]``. A
            negative code says that the ID has ended before this level; an ID may be empty.
        num_items: V, where ``codes`` is ``None``.
        sizes: number of different codes of each level, where ``codes`` is ``None``: they are to
            come from a state dict.

    Attributes:
        num_items: V.
        num_levels: T.
        sizes: number of codes of each level, an ID's end included where some end there.
        widths: most children of a node, for each of the ``T + 1`` levels, the items' included.

    Raises:
        ValueError: for codes that are no integers ``[V, T]``, or that go on behind their end.

    Example:
        >>> trie = CodeTrie(torch.tensor([[7, 1], [7, 2], [9, 1], [9, 1]]))
        >>> trie.sizes, [trie.num_nodes(level) for level in range(3)], trie.collisions
        ((2, 2), [2, 3, 4], 2)
        >>> trie.children_of(torch.tensor([0, 1]), level=1).code.tolist()
        [[0, 1], [0, 0]]
    """

    codes: Tensor
    item_at: Tensor
    place_of: Tensor

    def __init__(
        self,
        codes: Tensor | None,
        *,
        num_items: int | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if codes is None:
            if num_items is None or sizes is None:
                raise ValueError("without codes, num_items and sizes must say what will be loaded")
            self.num_items, self.num_levels, self.sizes = num_items, len(sizes), tuple(sizes)
            self.widths: tuple[int, ...] = ()
            self.register_buffer(
                "codes", torch.zeros(num_items, self.num_levels, dtype=torch.int16)
            )
            return
        _check(codes)
        self.num_items, self.num_levels = codes.shape
        self.register_buffer("codes", _smallest(codes.detach()))
        self._build(self.codes)

    @torch.no_grad()
    def _build(self, codes: Tensor) -> None:
        """Makes the levels."""
        dense, self.sizes = _numbered_from_zero(codes)
        order = _lexicographic(dense)
        self._make_levels(order, dense[order])

    def _make_levels(self, order: Tensor, rows: Tensor) -> None:
        """Makes the levels of items in lexicographic order, ``[n]``, and their codes ``[n, T]``."""
        changed = torch.ones_like(rows, dtype=torch.bool)
        changed[1:] = (rows[1:] != rows[:-1]).cumsum(1) > 0  # in this code, or in one before it
        place = torch.arange(len(rows), device=rows.device)
        parent, parents = torch.zeros_like(place), 1
        widths = []
        for level in range(self.num_levels):
            first_item = changed[:, level].nonzero().squeeze(1)
            node = changed[:, level].long().cumsum(0) - 1
            widths.append(self._level(level, parent[first_item], parents, rows[first_item, level]))
            self._keep(
                f"items_from_{level}", torch.cat([first_item, place.new_tensor([len(rows)])])
            )
            parent, parents = node, len(first_item)
        widths.append(self._level(self.num_levels, parent, parents))
        self.widths = tuple(widths)
        self._keep("item_at", order)
        place_of = place.new_full((self.num_items,), -1)
        place_of[order] = place
        self._keep("place_of", place_of)

    def _level(self, level: int, parent: Tensor, parents: int, code: Tensor | None = None) -> int:
        """Keeps a level of nodes with these parents; the most children of one."""
        count = torch.bincount(parent, minlength=parents)
        self._keep(f"first_{level}", torch.cat([count.new_zeros(1), count.cumsum(0)]))
        self._keep(f"parent_{level}", parent)
        if code is not None:
            self._keep(f"code_{level}", code)
        return int(count.max())

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.int(), persistent=False)  # V is below 2^31

    def _at(self, name: str, level: int) -> Tensor:
        found = self._buffers.get(f"{name}_{level}")
        if found is None:
            raise RuntimeError(
                f"the trie has no level {level}: "
                + (
                    f"it has {self.num_levels}"
                    if self.has_codes
                    else "its codes must be loaded first"
                )
            )
        return found

    def num_nodes(self, level: int) -> int:
        """Number of different prefixes of ``level + 1`` codes; of items at level T."""
        return int(self._at("parent", level).shape[0])

    @property
    def has_codes(self) -> bool:
        """Whether it knows them, or waits for a state dict."""
        return bool(self.widths)

    @property
    def num_inner_nodes(self) -> int:
        """Prefixes after which a decoder is asked for a code, the empty one included."""
        return 1 + sum(self.num_nodes(level) for level in range(self.num_levels - 1))

    @property
    def collisions(self) -> int:
        """Number of items that share their semantic ID with another."""
        count = self._at("first", self.num_levels).diff()
        return int(count[count > 1].sum())

    def parent_of_each(self, level: int) -> Tensor:
        """Number of each node's parent on the level above, int32 ``[num_nodes(level)]``."""
        return self._at("parent", level)

    def code_of_each(self, level: int) -> Tensor:
        """Each node's code, int32 ``[num_nodes(level)]``."""
        return self._at("code", level)

    def children_of(self, node: Tensor, level: int) -> Children:
        """The children on ``level`` of nodes of the level above (of the root, 0, at level 0).

        Args:
            node: int64, any shape ``[*]``.
            level: of the children, in ``[0, T]``; at T they are places, see :meth:`items`.
        """
        first = self._at("first", level)
        begin, end = first[node].long(), first[node + 1].long()
        child = begin.unsqueeze(-1) + torch.arange(self.widths[level], device=node.device)
        valid = child < end.unsqueeze(-1)
        child = torch.where(valid, child, begin.unsqueeze(-1))
        if level == self.num_levels:
            return Children(child, torch.zeros_like(child), valid)
        return Children(child, self._at("code", level)[child].long(), valid)

    def path(self, item: Tensor) -> list[Tensor]:
        """The nodes on the way to items, int64 ``[*]`` for each of the ``T + 1`` levels."""
        self._at("parent", self.num_levels)  # says so where the codes are still to come
        node = self.place_of[item].long()
        found = [node]
        for level in reversed(range(1, self.num_levels + 1)):
            node = self._at("parent", level)[node].long()
            found.append(node)
        return found[::-1]

    def items(self, place: Tensor) -> Tensor:
        """The items at places, which are the nodes of level T, int64 ``[*]``."""
        return self.item_at[place].long()

    def spans(self, node: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """First place below nodes of a level, and the first behind them."""
        if level == self.num_levels:
            return node, node + 1
        begin = self._at("items_from", level)
        return begin[node].long(), begin[node + 1].long()

    @torch.no_grad()
    def restrict(self, items: Tensor) -> CodeTrie:
        """A trie of some items only, under the numbers that they have here.

        It costs what these items cost, not what the catalogue does: they are in order already.

        Args:
            items: item numbers, int64 ``[n]``, in any order.

        Raises:
            ValueError: without items, or for a number that is not in this trie.
        """
        known = (items >= 0) & (items < self.num_items)
        place = torch.where(known, self.place_of[torch.where(known, items, 0)].long(), -1)
        if not items.numel() or bool((place < 0).any()):
            what = int(items[place < 0][0]) if items.numel() else "none at all"
            raise ValueError(
                f"items must be some of this trie's, in [0, {self.num_items}), got {what}"
            )
        order = self.items(place.unique())
        path = self.path(order)[: self.num_levels]
        codes = [self.code_of_each(level)[node].long() for level, node in enumerate(path)]
        new = CodeTrie(None, num_items=self.num_items, sizes=self.sizes)
        new.codes = self.codes
        new._make_levels(order, torch.stack(codes, 1))
        return new

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        given = state_dict.get(f"{prefix}codes")
        fits = given is not None and given.shape == self.codes.shape
        if given is not None and fits:  # of a type that holds these codes
            self.codes = torch.empty_like(given, device=self.codes.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not fits:
            return  # torch says so
        errors, sizes = args[-1], self.sizes
        try:
            _check(self.codes)
            self._build(self.codes)
        except ValueError as error:
            errors.append(f"{prefix}codes: {error}")
        if self.sizes != sizes:
            errors.append(
                f"{prefix}codes has {self.sizes} codes a level, but the model was made for {sizes}"
            )

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"items={self.num_items}, sizes={self.sizes}"


def _check(codes: Tensor) -> None:
    if codes.ndim != 2 or 0 in codes.shape or codes.is_floating_point() or codes.is_complex():
        raise ValueError(
            f"codes must be integers [V, T], one row an item, got {codes.dtype} "
            f"{tuple(codes.shape)}"
        )
    ended = codes < 0
    resumed = ended[:, :-1] & ~ended[:, 1:]
    if resumed.any():
        item, level = resumed.nonzero()[0].tolist()
        raise ValueError(
            f"the codes of item {item} go on behind their end: {codes[item].tolist()} has a "
            f"negative code at level {level} and {codes[item, level + 1].item()} after it"
        )


def _smallest(codes: Tensor) -> Tensor:
    """The same codes in the smallest of the integer types that holds them."""
    largest = max(abs(int(bound)) for bound in codes.aminmax())
    for dtype in (torch.int16, torch.int32):
        if largest <= torch.iinfo(dtype).max:
            return codes.to(dtype)
    return codes.long()


def _numbered_from_zero(codes: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Codes by their rank within a level, and how many a level has; an end is the last code."""
    dense, sizes = torch.empty(codes.shape, dtype=torch.long, device=codes.device), []
    for level, column in enumerate(codes.long().unbind(1)):
        ended = column < 0
        known, rank = torch.where(ended, column.max(), column).unique(return_inverse=True)
        if bool(ended.all()):
            known = known[:0]
        dense[:, level] = torch.where(ended, len(known), rank)
        sizes.append(len(known) + int(ended.any()))
    return dense, tuple(sizes)


def _lexicographic(rows: Tensor) -> Tensor:
    """The order of rows, int64 ``[n]``; equal rows keep theirs."""
    order = torch.arange(len(rows), device=rows.device)
    for column in reversed(rows.unbind(1)):
        order = order[torch.argsort(column[order], stable=True)]
    return order
