"""What every distribution over the items of a catalogue says of itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class OverItems(Distribution):
    """A distribution whose event is one of ``num_items`` items."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)

    @property
    def num_items(self) -> int:
        """``V``, the size of the catalogue."""
        raise NotImplementedError

    @property
    def support(self) -> constraints.Constraint:
        """Item indices ``0 .. V - 1``."""
        return constraints.integer_interval(0, self.num_items - 1)

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode: what TorchRL takes for ``InteractionType.DETERMINISTIC``."""
        return self.mode

    def _check_form(self, value: Tensor) -> None:
        """Raises ``ValueError`` unless these are item numbers that fit the batch."""
        if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"actions must be integer item indices, got {kind}")
        try:
            torch.broadcast_shapes(value.shape, self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"actions of shape {tuple(value.shape)} do not fit the batch shape "
                f"{tuple(self.batch_shape)}"
            ) from None

    def _check_range(self, value: Tensor) -> None:
        """Raises ``ValueError`` for a number outside the catalogue; waits for the device."""
        bad = (value < 0) | (value >= self.num_items)
        if bad.any():
            row = tuple(bad.nonzero()[0].tolist())
            where = row[0] if len(row) == 1 else row
            raise ValueError(
                f"action must lie in [0, {self.num_items}) but row {where} holds "
                f"{value[row].item()}; map raw ids to catalogue indices first"
            )
