"""From what a user did to a state vector: encoders of histories, context columns and features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

#: How a history becomes one vector: every item alike, by recency, or by recency and content.
Pooling = Literal["mean", "recency", "attention"]
#: Standard deviations from the mean at which a feature is cut off. Counts and durations have long
#: tails, and a broken sensor has none at all: a network extrapolates linearly, so one such number
#: would decide the whole state. By Chebyshev's inequality at most one row in a hundred is cut.
FARTHEST = 10.0
# Less spread than this, relative to the mean, is rounding in the sums that made the moments. A
# float32 column that varies at all has more: one ulp in one of a billion rows is 4e-12.
_CONSTANT = 1e-12


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

    def reset_parameters(self) -> None:
        """Makes all places and items count alike, as at first."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

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


class FeatureScaler(nn.Module):
    r"""Raw numeric features in standard units, :math:`(x - \mu) / \sigma`, cut off at ten.

    A network that reads seconds beside shares learns from the seconds alone. The moments are
    buffers, not batch statistics: they come from the training rows once (:meth:`fit_`), travel
    with a state dict, and a row is scaled alike alone and in a batch.

    Args:
        num_features: number ``F`` of features, at least 1.
        device: where the buffers live.

    Attributes:
        mean: what becomes 0, float32 ``[F]``; zeros at first. It stands in for what is not known
            of a row.
        scale: what becomes 1, float32 ``[F]``; ones at first.

    Raises:
        ValueError: if ``num_features`` is below 1.

    Example:
        >>> scaler = FeatureScaler(2).fit_(torch.tensor([3.0, 7.0]), torch.tensor([2.0, 0.0]))
        >>> scaler(torch.tensor([[5.0, 7.0], [-1e9, 8.0]]))
        tensor([[  1.,   0.],
                [-10.,   1.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_features: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.register_buffer("mean", torch.zeros(num_features, device=device))
        self.register_buffer("scale", torch.ones(num_features, device=device))

    @torch.no_grad()
    def fit_(self, mean: Tensor, std: Tensor) -> FeatureScaler:
        """Takes the moments of the training rows, in place.

        Args:
            mean: ``[F]``, finite.
            std: ``[F]``, finite, at least 0. A constant feature keeps scale 1: it says nothing
                in training, and what it says of a new row is in its own units.

        Returns:
            This module.

        Raises:
            ValueError: for other shapes, moments that are not finite or a negative ``std``.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.mean.shape:
                raise ValueError(
                    f"{name} must have shape {list(self.mean.shape)}, one number a feature, "
                    f"got {list(value.shape)}"
                )
            bad = ~value.isfinite() if name == "mean" else ~(value.isfinite() & (value >= 0))
            if bad.any():
                column = int(bad.nonzero()[0])
                raise ValueError(
                    f"{name} must be finite{'' if name == 'mean' else ' and at least 0'} but that "
                    f"of feature {column} is {value[column].item()}; look for broken numbers in "
                    "that column"
                )
        least = (_CONSTANT * mean.double().abs()).clamp_min(torch.finfo(torch.float32).tiny)
        varies = std.double() > least.to(std.device)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, std, 1.0))
        return self

    def forward(self, features: Tensor) -> Tensor:
        """Raw ``features [*B, F]`` in standard units, float32, within ten of 0."""
        if features.shape[-1] != len(self.mean):
            raise ValueError(
                f"expected {len(self.mean)} numeric features, got {features.shape[-1]}"
            )
        # Not in half precision: raw numbers of one size differ in digits that it does not have.
        centred = features.float() - self.mean.float()
        return (centred / self.scale.float()).clamp(-FARTHEST, FARTHEST)


class HistoryEncoder(nn.Module):
    """A history, integer context columns and numeric features to one state, through an MLP.

    Args:
        dim: width ``D`` of the item embeddings and of the state.
        length: longest history that will be given.
        context_sizes: number of values of each context column; a column holds ids in ``[0, n)``
            and -1 for an unknown one, which has an embedding too.
        hidden: widths of the MLP's hidden layers; ``()`` is one linear layer.
        pooling: see :class:`HistoryPooling`.
        num_features: number ``F`` of numeric features; 0 for none.
        device: where the parameters live.

    Attributes:
        scaler: the features' :class:`FeatureScaler`, to be fitted before training, or ``None``.

    Raises:
        ValueError: if ``num_features`` is below 0, or as :class:`HistoryPooling`.

    Example:
        >>> encoder = HistoryEncoder(8, length=5, context_sizes=(15,), num_features=2)
        >>> embedded, mask = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)
        >>> context, features = torch.zeros(4, 1, dtype=torch.long), torch.randn(4, 2)
        >>> encoder(embedded, mask, context, features).shape
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
        num_features: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if num_features < 0:
            raise ValueError(f"num_features must be at least 0, got {num_features}")
        self.pooling = HistoryPooling(dim, length, pooling=pooling, device=device)
        self.context = nn.ModuleList(
            nn.Embedding(size + 1, dim, device=device) for size in context_sizes
        )
        self.reset_parameters()
        self.scaler = FeatureScaler(num_features, device) if num_features else None
        widths = [dim * (1 + len(self.context)) + num_features, *hidden, dim]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, device=device), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def reset_parameters(self) -> None:
        """Draws the contexts' embeddings anew; pooling and layers do so themselves."""
        for table in self.context:  # of about unit length, as the items are
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)

    def forward(
        self,
        embedded: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """The states of rows.

        Args:
            embedded: the histories' item embeddings, ``[*B, L, D]``.
            mask: which of them are there, bool ``[*B, L]``.
            context: ids, int64 ``[*B, C]``; ``None`` without context columns.
            features: raw numbers, ``[*B, F]``; ``None`` without features.

        Returns:
            Shape ``[*B, D]``.

        Raises:
            ValueError: for another number of context columns or features.
        """
        columns = 0 if context is None else context.shape[-1]
        if columns != len(self.context):
            raise ValueError(f"expected {len(self.context)} context columns, got {columns}")
        parts = [self.pooling(embedded, mask)]
        if context is not None:
            parts += [
                table(column + 1)  # -1, unknown, is the table's first row
                for table, column in zip(self.context, context.unbind(-1), strict=True)
            ]
        if self.scaler is not None and features is not None:
            parts.append(self.scaler(features).to(embedded.dtype))
        elif self.scaler is not None or (features is not None and features.shape[-1]):
            wanted = 0 if self.scaler is None else len(self.scaler.mean)
            got = 0 if features is None else features.shape[-1]
            raise ValueError(f"expected {wanted} numeric features, got {got}")
        return self.mlp(torch.cat(parts, -1))
