"""Where the best rows, the worst rows and the good ones begin."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from torchrl_drpo.functional.checks import check_finite


@dataclass(frozen=True)
class QualityBounds:
    """Where the best rows, the worst rows and the positives of GAUC begin.

    Attributes:
        worst: rows of this quality or less are the worst ones.
        good: rows of this quality or more are GAUC's positives.
        best: rows of this quality or more are the best ones.
    """

    worst: float = 0.25
    good: float = 0.5
    best: float = 0.75

    @classmethod
    def of_positives(cls, quality: float) -> QualityBounds:
        """Where every row is worth the same: all are good, and no row is among the worst.

        Example:
            >>> QualityBounds.of_positives(1.0)
            QualityBounds(worst=-inf, good=1.0, best=1.0)
        """
        return cls(-math.inf, quality, quality)

    @classmethod
    def from_quality(cls, quality: Tensor) -> QualityBounds:
        """The quarters and the middle of training rows' quality.

        A signal with few values (clicks) may have all its quarters at one of them; the nearest
        other value then makes the difference, so that clicks become 1 against 0.

        Args:
            quality: of the training rows, shape ``[N]``.

        Raises:
            ValueError: if all rows are worth the same, which leaves nothing to rank.

        Example:
            >>> import torch
            >>> QualityBounds.from_quality(torch.tensor([0.0] * 99 + [1.0]))
            QualityBounds(worst=0.0, good=1.0, best=1.0)
        """
        check_finite("quality", quality)
        levels = quality.flatten().unique()  # sorted; quantiles below are taken by hand, as
        if levels.numel() < 2:  # torch.quantile refuses more than 2^24 rows
            raise ValueError(
                f"all {quality.numel()} training rows have quality {levels[0].item():g}; declare "
                "a quality that tells rows apart in the log's schema"
            )
        ordered = quality.flatten().sort().values
        worst, good, best = (ordered[(len(ordered) * share) // 4].item() for share in (1, 2, 3))
        if best == levels[0]:
            best = levels[1].item()
        if worst >= best:
            worst = levels[levels < best][-1].item()
        return cls(worst, good if worst < good else best, best)
