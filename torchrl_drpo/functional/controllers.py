"""The numbers of the adaptive filter, apart from its state (a buffer of the loss)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive
from torchrl_drpo.functional.selection import kappa_step


@dataclass(frozen=True)
class AdaptiveKappa:
    """Moves kappa so that the kept rows are about ``target_ratio`` as spread out as the batch.

    Source: arXiv 2602.10430, algorithm box (its text states the opposite direction; the box is
    the stable one). Floors above the paper's 0.05 keep more samples on very noisy logs.

    Attributes:
        initial: kappa of the first step, within ``bounds``.
        target_ratio: lambda, above 0.
        bounds: smallest and largest kappa, in (0, 1].
        up: factor of growth, at least 1.
        down: factor of decay, in (0, 1].

    Raises:
        ValueError: for numbers outside these ranges.

    Examples:
        >>> import torch
        >>> AdaptiveKappa(initial=0.3).step(torch.tensor(0.3), torch.tensor(1.0), torch.tensor(1.0))
        tensor(0.2940)
    """

    initial: float = 0.5
    target_ratio: float = 0.5
    bounds: tuple[float, float] = (0.05, 1.0)
    up: float = 1.02
    down: float = 0.98

    def __post_init__(self) -> None:
        low, high = self.bounds
        check_fraction("AdaptiveKappa.initial", self.initial)
        check_fraction("AdaptiveKappa.bounds[0]", low)
        check_fraction("AdaptiveKappa.bounds[1]", high)
        check_positive("AdaptiveKappa.target_ratio", self.target_ratio)
        if not low <= self.initial <= high:
            raise ValueError(
                f"AdaptiveKappa.initial must lie within bounds {self.bounds}, got {self.initial}"
            )
        if not (self.up >= 1 and 0 < self.down <= 1):
            raise ValueError(
                f"AdaptiveKappa needs up >= 1 and 0 < down <= 1, got {self.up} and {self.down}"
            )

    def step(self, kappa: Tensor, kept_std: Tensor, batch_std: Tensor) -> Tensor:
        """The next kappa (:func:`~torchrl_drpo.functional.selection.kappa_step`)."""
        return kappa_step(
            kappa,
            kept_std,
            batch_std,
            target_ratio=self.target_ratio,
            bounds=self.bounds,
            up=self.up,
            down=self.down,
        )
