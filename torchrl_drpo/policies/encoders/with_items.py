"""The encoder of a policy whose own table is not of items: histories by number to states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.policies.encoders.config import EncoderConfig
from torchrl_drpo.policies.encoders.history import HistoryEncoder
from torchrl_drpo.policies.encoders.observations import observation_inputs
from torchrl_drpo.policies.encoders.reading import HistoryReader


class ObservationEncoder(HistoryReader):
    """Item numbers, context and features to states, with a table of the items of histories.

    What a Gaussian policy puts in front of its head; policies over items share their own tables
    with the histories.

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

    def embed(self, item: Tensor) -> Tensor:
        """Rows of the table, ``[*, D]``."""
        return F.embedding(item, self.items)
