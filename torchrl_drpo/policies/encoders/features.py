"""Raw numeric features in the units that a network reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Standard deviations from the mean at which a feature is cut off. Counts and durations have long
#: tails, and a broken sensor has none at all: a network extrapolates linearly, so one such number
#: would decide the whole state. By Chebyshev's inequality at most one row in a hundred is cut.
FARTHEST = 10.0
# Less spread than this, relative to the mean, is rounding in the sums that made the moments. A
# float32 column that varies at all has more: one ulp in one of a billion rows is 4e-12.
_CONSTANT = 1e-12


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
