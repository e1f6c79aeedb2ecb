"""From what a user did to a state vector: histories, context columns and features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.policies.encoders.config import EncoderConfig, Pooling, encoder_config
from torchrl_drpo.policies.encoders.features import FeatureScaler
from torchrl_drpo.policies.encoders.lengths import in_lengths
from torchrl_drpo.policies.encoders.own import own_mixer
from torchrl_drpo.policies.encoders.pooling import HistoryPooling
from torchrl_drpo.policies.encoders.recurrent import HistoryGRU
from torchrl_drpo.policies.encoders.transformer import HistoryTransformer
from torchrl_drpo.references import is_reference


class HistoryEncoder(nn.Module):
    """A history, integer context columns and numeric features to one state.

    A pooled history, the context's embeddings and the features pass through an MLP together. A GRU
    or a transformer gives a state by itself; where there is a context or a feature, an MLP of all
    three is added to it.

    Args:
        dim: width ``D`` of the item embeddings and of the state.
        length: longest history that will be given.
        context_sizes: number of values of each context column; a column holds ids in ``[0, n)``
            and -1 for an unknown one, which has an embedding too.
        hidden: widths of the MLP's hidden layers; ``()`` is one linear layer. Short for an
            ``EncoderConfig(hidden=...)``.
        pooling: see :class:`HistoryPooling`; short likewise.
        num_features: number ``F`` of numeric features; 0 for none.
        device: where the parameters live.
        config: what reads the history; pooling by default.

    Attributes:
        scaler: the features' :class:`FeatureScaler`, to be fitted before training, or ``None``.
        feedback_scaler: the same of the past rows' quality, with ``config.feedback``.

    Raises:
        ValueError: if ``num_features`` is below 0, ``hidden`` or ``pooling`` is given beside a
            config, or as :class:`EncoderConfig` and :class:`HistoryPooling`.

    Example:
        >>> encoder = HistoryEncoder(8, length=5, context_sizes=(15,), num_features=2)
        >>> embedded, mask = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)
        >>> context, features = torch.zeros(4, 1, dtype=torch.long), torch.randn(4, 2)
        >>> encoder(embedded, mask, context, features).shape
        torch.Size([4, 8])
        >>> encoder = HistoryEncoder(8, length=5, config=EncoderConfig("transformer"))
        >>> encoder(embedded, mask).shape, encoder.places(embedded, mask).shape
        (torch.Size([4, 8]), torch.Size([4, 6, 8]))
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
        config: EncoderConfig | None = None,
    ) -> None:
        super().__init__()
        if num_features < 0:
            raise ValueError(f"num_features must be at least 0, got {num_features}")
        for name, value in (("dim", dim), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.config = config = encoder_config(config, tuple(hidden), pooling)
        self.length = length
        mixer = _mixer(config, dim, length, device)
        if config.kind == "pooling":
            self.pooling = mixer  # the name under which older checkpoints keep it
        else:
            self.sequence = mixer
        self.context = nn.ModuleList(
            nn.Embedding(size + 1, dim, device=device) for size in context_sizes
        )
        self.reset_parameters()
        self.scaler = FeatureScaler(num_features, device) if num_features else None
        mixed = bool(context_sizes) or num_features > 0
        self.mlp = None
        if config.kind == "pooling" or mixed:
            widths = [dim * (1 + len(self.context)) + num_features, *config.hidden, dim]
            layers: list[nn.Module] = []
            for before, after in pairwise(widths):
                layers += [nn.Linear(before, after, device=device), nn.ReLU()]
            self.mlp = nn.Sequential(*layers[:-1])
        self.feedback_scaler = FeatureScaler(1, device) if config.feedback else None
        self.feedback = nn.Linear(1, dim, device=device) if config.feedback else None

    def reset_parameters(self) -> None:
        """Draws the contexts' embeddings anew; the other parts do so themselves."""
        for table in self.context:  # of about unit length, as the items are
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)

    def forward(
        self,
        embedded: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The states of rows.

        Args:
            embedded: the histories' item embeddings, oldest first, ``[*B, L, D]``.
            mask: which of them are there, bool ``[*B, L]``; the others are as if left out.
            context: ids, int64 ``[*B, C]``; ``None`` without context columns.
            features: raw numbers, ``[*B, F]``; ``None`` without features.
            times: when each item happened, int64 ``[*B, L]`` in the log's ticks; where the config
                reads times.
            feedback: each item's quality, ``[*B, L]``; where the config reads feedback.

        Returns:
            Shape ``[*B, D]``.

        Raises:
            ValueError: for another number of context columns or features, a history that is too
                long, or times or feedback that are missing or not read.
        """
        embedded = self._entered(embedded, mask, feedback)
        if self.config.kind == "pooling":
            self._check_times(times)
            return self.finish(self.pooling(embedded, mask), context, features)
        batch = mask.shape[:-1]
        packed = _compacted(*_flat(embedded, mask, times))
        states = in_lengths(self._last, *packed)
        return self.finish(states.reshape(*batch, *states.shape[1:]), context, features)

    def places(
        self,
        embedded: Tensor,
        mask: Tensor,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """What histories of the first 0, 1, ..., L items that are there become, in one pass.

        A row of a log whose history holds the first k of them, whatever lies between or after,
        has the state ``finish(places[..., k, :], context, features)``: the one that
        :meth:`forward` gives to that history alone.

        Args:
            embedded: ``[*B, L, D]``, as in :meth:`forward`.
            mask: bool ``[*B, L]``.
            times: int64 ``[*B, L]``.
            feedback: ``[*B, L]``.

        Returns:
            Shape ``[*B, L + 1, D]``; entries beyond the number of items mean nothing.
        """
        batch = mask.shape[:-1]
        embedded = self._entered(embedded, mask, feedback)
        states = in_lengths(self._every, *_compacted(*_flat(embedded, mask, times)))
        return states.reshape(*batch, *states.shape[1:])

    def finish(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """States ``[*B, D]`` of what histories became, in a context and of features.

        Args:
            history: entries of :meth:`places`, ``[*B, D]``.
            context: ids, int64 ``[*B, C]``.
            features: raw numbers, ``[*B, F]``.
        """
        columns = 0 if context is None else context.shape[-1]
        if columns != len(self.context):
            raise ValueError(f"expected {len(self.context)} context columns, got {columns}")
        parts = [history]
        if context is not None:
            parts += [
                table(column + 1)  # -1, unknown, is the table's first row
                for table, column in zip(self.context, context.unbind(-1), strict=True)
            ]
        if self.scaler is not None and features is not None:
            parts.append(self.scaler(features).to(history.dtype))
        elif self.scaler is not None or (features is not None and features.shape[-1]):
            wanted = 0 if self.scaler is None else len(self.scaler.mean)
            got = 0 if features is None else features.shape[-1]
            raise ValueError(f"expected {wanted} numeric features, got {got}")
        if self.mlp is None:
            return history
        mixed = self.mlp(torch.cat(parts, -1))
        return mixed if self.config.kind == "pooling" else history + mixed

    def _last(self, embedded: Tensor, count: Tensor, times: Tensor | None) -> Tensor:
        """What compact histories ``[B, L, D]`` become, ``[B, D]``."""
        if self.config.kind == "transformer":
            return self.sequence(embedded, times, count)
        states = self._every(embedded, count, times)
        place = count.view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return states.gather(1, place).squeeze(1)

    def _every(self, embedded: Tensor, count: Tensor, times: Tensor | None) -> Tensor:
        """What all beginnings of compact histories become, ``[B, L + 1, D]``."""
        if self.config.kind == "transformer":
            return self.sequence(embedded, times)
        self._check_times(times)
        if self.config.kind != "pooling":
            return self.sequence(embedded)
        place = torch.arange(embedded.shape[1], device=embedded.device)
        return self.pooling.places(embedded, place < count.unsqueeze(-1))

    def _entered(self, embedded: Tensor, mask: Tensor, feedback: Tensor | None) -> Tensor:
        # Item vectors have about unit length; a GRU and a transformer want entries of size one.
        if self.config.kind != "pooling":
            embedded = embedded * embedded.shape[-1] ** 0.5
        if (feedback is None) != (self.feedback is None):
            raise ValueError(
                "this encoder reads no feedback; make it with feedback=True"
                if self.feedback is None
                else "this encoder reads feedback; give the quality of each past row"
            )
        if self.feedback is not None and self.feedback_scaler is not None and feedback is not None:
            known = torch.where(mask, feedback, 0.0).unsqueeze(-1)  # padding may hold anything
            embedded = embedded + self.feedback(self.feedback_scaler(known).to(embedded.dtype))
        return F.dropout(embedded, self.config.dropout, self.training)

    def _check_times(self, times: Tensor | None) -> None:
        if times is not None:
            raise ValueError("this encoder reads no times; a transformer does, with times=True")


def _mixer(
    config: EncoderConfig, dim: int, length: int, device: torch.device | str | None
) -> nn.Module:
    if config.kind == "pooling":
        return HistoryPooling(dim, length, pooling=config.pooling, device=device)
    if is_reference(config.kind):
        return own_mixer(config.kind, dim, length, device)
    width, dropout = config.inner_width(dim), config.dropout
    if config.kind == "gru":
        return HistoryGRU(dim, width=width, layers=config.layers, dropout=dropout, device=device)
    return HistoryTransformer(
        dim,
        length,
        width=width,
        layers=config.layers,
        heads=config.heads,
        expansion=config.expansion,
        dropout=dropout,
        times=config.times,
        device=device,
    )


def _flat(
    embedded: Tensor, mask: Tensor, times: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    length = mask.shape[-1]
    flat = None if times is None else times.reshape(-1, length)
    return embedded.reshape(-1, length, embedded.shape[-1]), mask.reshape(-1, length), flat


def _compacted(
    embedded: Tensor, mask: Tensor, times: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Items that are there first, in their order; zeros behind them; how many they are ``[B]``.

    So a causal mask hides padding, and distances in place are distances in the history, wherever
    the padding was.
    """
    place = torch.arange(mask.shape[-1], device=mask.device)
    order = (place + mask.shape[-1] * ~mask).argsort()  # no two alike: any sort keeps their order
    count = mask.sum(-1)
    there = place < count.unsqueeze(-1)
    embedded = embedded.gather(1, order.unsqueeze(-1).expand_as(embedded))
    embedded = torch.where(there.unsqueeze(-1), embedded, 0.0)
    if times is not None:
        times = torch.where(there, times.gather(1, order), 0)
    return embedded, count, times
