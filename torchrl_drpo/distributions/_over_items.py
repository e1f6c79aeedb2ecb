"""What every distribution over the items of a catalogue says of itself."""

from __future__ import annotations

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
