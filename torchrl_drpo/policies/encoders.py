"""From what a user did to a state vector: encoders of histories and of context columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

#: How a history becomes one vector: every item alike, by recency, or by recency and content.
Pooling = Literal["mean", "recency", "attention"]


class HistoryPooling(nn.Module):
    r"""Weighted mean of a history's item embeddings, :math:`\sum_l \alpha_l e_l`.

    One formula, :math:`\alpha = \mathrm{softmax}(p_l + q^\top e_l / \sqrt D)` over the valid
    places, in three depths: ``"mean"`` has neither term, ``"recency"`` learns ``p`` (one number
    for the last item, one for the last but one, ...), ``"attention"`` learns ``q`` too. All start
    as the plain mean. An empty history gives a learned vector of its own, not NaN.

    Args:
        dim: width ``D`` of the embeddings.
        length: longest history that will be given.
        pooling: see above.
        device: where the parameters live.

    Raises:
        ValueError: if ``pooling`` is unknown, or ``dim`` or ``length`` is below 1.

    Example:
        >>> pool = HistoryPooling(2, length=3, pooling="mean")
        >>> embedded = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> pool(embedded, torch.tensor([[False, True, True]])).tolist()
        [[0.5, 0.5]]
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        pooling: Pooling = "recency",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "recency", "attention"):
            raise ValueError(f"pooling must be mean, recency or attention, got {pooling!r}")
        for name, value in (("dim", dim), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.length = length
        self.empty = nn.Parameter(torch.zeros(dim, device=device))
        recency = None if pooling == "mean" else nn.Parameter(torch.zeros(length, device=device))
        query = nn.Parameter(torch.zeros(dim, device=device)) if pooling == "attention" else None
        self.register_parameter("recency", recency)
        self.register_parameter("query", query)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Pools ``embedded [*B, L, D]`` where ``mask [*B, L]`` is true; gives ``[*B, D]``."""
        length = mask.shape[-1]
        if length > self.length:
            raise ValueError(
                f"histories of {length} items were given to an encoder made for {self.length}; "
                f"read the log with history={self.length} or make the actor with history={length}"
            )
        score = torch.zeros_like(mask, dtype=embedded.dtype)
        if self.recency is not None:
            score = score + self.recency[self.length - length :]  # the last place is the latest
        if self.query is not None:
            score = score + embedded @ self.query / embedded.shape[-1] ** 0.5
        # A finite floor keeps the softmax of an empty history finite; its weights are zeroed next.
        weight = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask
        pooled = (weight.unsqueeze(-2) @ embedded).squeeze(-2)
        return torch.where(mask.any(-1, keepdim=True), pooled, self.empty)


class HistoryEncoder(nn.Module):
    """An embedded history and integer context columns to one state vector, through an MLP.

    Args:
        dim: width ``D`` of the item embeddings and of the state.
        length: longest history that will be given.
        context_sizes: number of values of each context column; a column holds ids in ``[0, n)``
            and -1 for an unknown one, which has an embedding too.
        hidden: widths of the MLP's hidden layers; ``()`` is one linear layer.
        pooling: see :class:`HistoryPooling`.
        device: where the parameters live.

    Example:
        >>> encoder = HistoryEncoder(8, length=5, context_sizes=(15,))
        >>> embedded, mask = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)
        >>> encoder(embedded, mask, torch.zeros(4, 1, dtype=torch.long)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        context_sizes: Sequence[int] = (),
        hidden: Sequence[int] = (128,),
        pooling: Pooling = "recency",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.pooling = HistoryPooling(dim, length, pooling=pooling, device=device)
        self.context = nn.ModuleList(
            nn.Embedding(size + 1, dim, device=device) for size in context_sizes
        )
        for table in self.context:
            nn.init.normal_(table.weight, std=dim**-0.5)
        widths = [dim * (1 + len(self.context)), *hidden, dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, device=device), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, embedded: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Turns ``embedded [*B, L, D]``, ``mask`` and ``context [*B, C]`` into ``[*B, D]``."""
        columns = 0 if context is None else context.shape[-1]
        if columns != len(self.context):
            raise ValueError(f"expected {len(self.context)} context columns, got {columns}")
        parts = [self.pooling(embedded, mask)]
        if context is not None:
            parts += [
                table(column + 1)  # -1, unknown, is the table's first row
                for table, column in zip(self.context, context.unbind(-1), strict=True)
            ]
        return self.mlp(torch.cat(parts, -1))
