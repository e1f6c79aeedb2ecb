"""The encoder of a policy whose own table is not of items: histories by number to states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey
from torch import Tensor, nn

from torchrl_drpo.policies.encoders.config import EncoderConfig
from torchrl_drpo.policies.encoders.history import HistoryEncoder

#: Where a log's rows have what an encoder reads, by the names of its arguments.
OBSERVATION_KEYS: dict[str, NestedKey] = {
    "history": ("observation", "history"),
    "context": ("observation", "context"),
    "features": ("observation", "features"),
    "times": ("observation", "history_time"),
    "feedback": ("observation", "history_feedback"),
}


class ObservationEncoder(nn.Module):
    """Item numbers, context and features to states, with a table of the items of histories.

    What a Gaussian or a semantic-ID policy puts in front of its head. (A catalogue policy shares
    its output table with the histories, and so holds a :class:`HistoryEncoder` itself.)

    Args:
        num_items: size ``V`` of the catalogue.
        dim: width ``D`` of item embeddings and states.
        history: longest history that will be given.
        encoder: what reads it; pooling by default. A mapping is one from a checkpoint.
        context_sizes: number of values of each context column.
        num_features: number ``F`` of numeric features.
        device: where the parameters live.

    Attributes:
        items: item embeddings, parameter ``[V, D]``.
        encoder: the :class:`HistoryEncoder`; fit its scalers before training.
        inputs: keys of what :meth:`forward` reads, by the names of its arguments: the
            ``in_keys`` of a ``TensorDictModule``.

    Raises:
        ValueError: for a size below 1, or as :class:`HistoryEncoder`.

    Examples:
        >>> encoder = ObservationEncoder(100, 8, history=4, encoder=EncoderConfig("gru"))
        >>> encoder(torch.tensor([[-1, -1, 7, 42], [-1, -1, -1, -1]])).shape
        torch.Size([2, 8])
        >>> list(encoder.inputs)
        ['history']
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        history: int = 20,
        encoder: EncoderConfig | Mapping[str, Any] | None = None,
        context_sizes: Sequence[int] = (),
        num_features: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {num_items}")
        config = EncoderConfig.of(encoder)
        self.encoder = HistoryEncoder(
            dim,
            history,
            context_sizes=context_sizes,
            num_features=num_features,
            config=config,
            device=device,
        )
        self.items = nn.Parameter(torch.empty(num_items, dim, device=device))
        self.inputs = observation_inputs(config, context_sizes, num_features)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the items anew, of about unit length; the encoder does so itself."""
        self.items.normal_(std=self.items.shape[1] ** -0.5)

    def forward(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The states ``[*B, D]`` of rows.

        Args:
            history: item numbers, int64 ``[*B, L]``, oldest first; -1 pads.
            context: ids, int64 ``[*B, C]``.
            features: raw numbers, ``[*B, F]``.
            times: ticks of the history's rows, int64 ``[*B, L]``.
            feedback: their quality, ``[*B, L]``.
        """
        embedded = F.embedding(history.clamp_min(0), self.items)
        return self.encoder(embedded, history >= 0, context, features, times, feedback)

    def places(
        self, history: Tensor, times: Tensor | None = None, feedback: Tensor | None = None
    ) -> Tensor:
        """What histories of the first 0, 1, ..., L items become; see :class:`HistoryEncoder`."""
        embedded = F.embedding(history.clamp_min(0), self.items)
        return self.encoder.places(embedded, history >= 0, times, feedback)

    def usual_features(self) -> Tensor | None:
        """What to give for features that are not known: the training rows' mean ``[F]``."""
        scaler = self.encoder.scaler
        return None if scaler is None else scaler.mean


def observation_inputs(
    config: EncoderConfig,
    context_sizes: Sequence[int] = (),
    num_features: int = 0,
    **keys: NestedKey,
) -> dict[str, NestedKey]:
    """Keys of what an encoder reads, by the names of its arguments.

    Args:
        config: the encoder's.
        context_sizes: of the context columns; none, and no context is read.
        num_features: none, and no features are read.
        **keys: others than those of a log's rows, by argument.
    """
    read = {
        "history": True,
        "context": bool(context_sizes),
        "features": num_features > 0,
        "times": config.times,
        "feedback": config.feedback,
    }
    known = OBSERVATION_KEYS | keys
    return {name: known[name] for name, wanted in read.items() if wanted}
