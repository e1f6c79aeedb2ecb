"""From an embedding to items: exact search over an item matrix in bounded memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.similarity import unit

Metric = Literal["inner_product", "cosine"]


class MIPSDecoder(nn.Module):
    r"""Exact maximum inner product search: the k items with the largest :math:`q \cdot e_v`.

    Queries and items are compared block by block and the best k are carried along, so that
    beyond its inputs and outputs a search needs about ``max_block`` scores, whatever the number
    of queries and items. Scores are float32 or better. The items are a buffer: they move with
    the module and are saved with it. Items with equal scores come in no particular order.

    Args:
        items: embeddings, shape ``[V, d]``, floating point; kept without a copy.
        metric: ``"inner_product"``, or ``"cosine"`` for the inner product of the directions
            (the simulator's retrieval). A zero vector has cosine zero with everything.
        max_block: scores held at a time, at least 1; the default is 64 MiB of float32.

    Raises:
        ValueError: if ``items`` is not a non-empty floating-point matrix, or an option is unknown.

    Examples:
        >>> import torch
        >>> decoder = MIPSDecoder(torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
        >>> scores, indices = decoder.decode(torch.tensor([2.0, 1.0]), k=2)
        >>> scores, indices
        (tensor([3., 3.]), tensor([..., ...]))
        >>> by_direction = MIPSDecoder(decoder.items, metric="cosine")
        >>> by_direction.decode(torch.tensor([2.0, 1.0]))
        (tensor([0.9487]), tensor([2]))
        >>> by_direction.decode(torch.tensor([2.0, 1.0]), exclude=torch.tensor([2]))[1]
        tensor([0])
    """

    def __init__(
        self, items: Tensor, *, metric: Metric = "inner_product", max_block: int = 2**24
    ) -> None:
        super().__init__()
        if items.ndim != 2 or 0 in items.shape or not items.is_floating_point():
            raise ValueError(
                "items must be a non-empty floating-point matrix [V, d], "
                f"got {items.dtype} of shape {tuple(items.shape)}"
            )
        if metric not in ("inner_product", "cosine"):
            raise ValueError(f"metric must be 'inner_product' or 'cosine', got {metric!r}")
        check_positive("max_block", max_block)
        self.metric = metric
        self.max_block = int(max_block)
        self.register_buffer("items", items.detach())
        norm = torch.linalg.vector_norm(items.detach(), dim=-1, dtype=_wide(items))
        self.register_buffer("inverse_norm", torch.where(norm > 0, 1.0 / norm, 0.0))

    @property
    def num_items(self) -> int:
        """V, the number of items."""
        return self.items.shape[0]

    def forward(
        self, query: Tensor, k: int = 1, exclude: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Same as :meth:`decode`, so that the decoder composes as a module."""
        return self.decode(query, k, exclude)

    @torch.no_grad()
    def decode(
        self, query: Tensor, k: int = 1, exclude: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Finds the k best items of each query, best first.

        Args:
            query: shape ``[*B, d]``, floating point.
            k: how many items, in [1, V].
            exclude: item indices that must not come back, int64, shape ``[E]`` (for all queries)
                or ``[*B, E]`` (of each query); entries outside [0, V), such as -1, are padding.

        Returns:
            Scores (float32 or better) and indices (int64), each ``[*B, k]``. Where fewer than k
            items are left, the score is ``-inf`` and the index -1; where the query is NaN, the
            score is NaN and the index -1: no item is nearest to it.

        Raises:
            ValueError: if ``k`` or a shape does not fit, or ``exclude`` is not int64.
        """
        self.check(query, k, exclude)
        batch = query.shape[:-1]
        flat = query.reshape(-1, query.shape[-1]).to(_wide(self.items, query))
        if self.metric == "cosine":
            flat = unit(flat)
        if exclude is not None:
            exclude = exclude.expand(*batch, -1).reshape(flat.shape[0], -1)
        rows = max(1, min(flat.shape[0], self.max_block // max(k, min(self.num_items, 4096))))
        width = max(k, self.max_block // rows)
        scores = flat.new_empty(flat.shape[0], k)
        indices = torch.empty(flat.shape[0], k, dtype=torch.int64, device=flat.device)
        for start in range(0, flat.shape[0], rows):
            part = slice(start, start + rows)
            banned = None if exclude is None else exclude[part]
            scores[part], indices[part] = self._search(flat[part], k, banned, width)
        return scores.reshape(*batch, k), indices.reshape(*batch, k)

    def _search(
        self, query: Tensor, k: int, exclude: Tensor | None, width: int
    ) -> tuple[Tensor, Tensor]:
        """Best k of one block of queries ``[b, d]``, over the items in steps of ``width``."""
        best = query.new_full((query.shape[0], 0), -torch.inf)
        index = torch.empty(query.shape[0], 0, dtype=torch.int64, device=query.device)
        for start in range(0, self.num_items, width):
            block = self.items[start : start + width].to(query.dtype)
            scores = query @ block.T
            if self.metric == "cosine":
                scores *= self.inverse_norm[start : start + width]
            if exclude is not None:
                _ban(scores, exclude - start)
            top, where = scores.topk(min(k, block.shape[0]), dim=-1)
            best, order = torch.cat([best, top], -1).topk(
                min(k, best.shape[1] + top.shape[1]), dim=-1
            )
            index = torch.cat([index, where + start], -1).gather(-1, order)
        return best, index.masked_fill((best == -torch.inf) | best.isnan(), -1)

    def check(self, query: Tensor, k: int, exclude: Tensor | None) -> None:
        """Raises ``ValueError`` unless these are arguments of :meth:`decode`."""
        width = self.items.shape[1]
        if query.ndim == 0 or query.shape[-1] != width or not query.is_floating_point():
            raise ValueError(
                f"query must be floating point of shape [*B, {width}], the width of the items, "
                f"got {query.dtype} of shape {tuple(query.shape)}"
            )
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}], the number of items, got {k}")
        if exclude is None:
            return
        fits = exclude.ndim == 1 or exclude.shape[:-1] == query.shape[:-1]
        if exclude.dtype != torch.int64 or exclude.ndim == 0 or not fits:
            raise ValueError(
                f"exclude must be int64 of shape [E] or {[*query.shape[:-1], 'E']}, "
                f"got {exclude.dtype} of shape {tuple(exclude.shape)}"
            )

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"items={tuple(self.items.shape)}, metric={self.metric!r}"


def _wide(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' types and float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _ban(scores: Tensor, local: Tensor) -> None:
    """Sets ``scores[b, local[b, e]]`` to ``-inf`` in place; positions outside the block are left.

    amin with +inf does nothing, so a position outside may point anywhere inside.
    """
    inside = (local >= 0) & (local < scores.shape[1])
    value = torch.where(inside, -torch.inf, torch.inf).to(scores.dtype)
    scores.scatter_reduce_(1, local.clamp(0, scores.shape[1] - 1), value, "amin")
