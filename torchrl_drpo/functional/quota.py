"""How many rows a fraction of a batch makes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction
from torchrl_drpo.functional.host import reads_are_free


def quota(count: Tensor | int, kappa: Tensor | float) -> Tensor:
    """Rows that a fraction ``kappa`` of ``count`` rows makes: round half up, at least one.

    Computed in float64, with ``kappa`` taken as the decimal that it was rounded from: 0.7 of 45
    rows is 31.5 and gives 32, although 0.7 * 45 is 31.499999999999996 in float64 and less in
    float32.

    Args:
        count: number of rows, any shape.
        kappa: fraction in (0, 1], a number or a 0-d tensor.

    Returns:
        float64 tensor of ``count``'s shape; 0 where ``count`` is 0.

    Examples:
        >>> quota(1000, 0.1).item(), quota(5, torch.tensor(0.7)).item(), quota(3, 0.05).item()
        (100.0, 4.0, 1.0)
    """
    if isinstance(count, int) and (not isinstance(kappa, Tensor) or reads_are_free(kappa)):
        return torch.tensor(quota_on_host(count, kappa), dtype=torch.float64)
    exact = torch.as_tensor(count, dtype=torch.float64)
    ratio = kappa.double() if isinstance(kappa, Tensor) else kappa
    spread = torch.floor(exact * ratio * (1 + _slack(kappa)) + 0.5)
    return torch.minimum(spread.clamp_min(1.0), exact)


def quota_on_host(count: int, kappa: Tensor | float) -> int:
    """:func:`quota` where kappa may be read.

    Raises:
        ValueError: if ``kappa`` lies outside (0, 1].
    """
    ratio = float(kappa)
    check_fraction("kappa", ratio)
    rows = math.floor(count * ratio * (1 + _slack(kappa)) + 0.5)
    return min(max(rows, 1), count)


def _slack(kappa: Tensor | float) -> float:
    """How far a kappa may lie below the decimal that it stands for, relatively."""
    if isinstance(kappa, Tensor) and kappa.dtype != torch.float64:
        return 0.5 * torch.finfo(kappa.dtype).eps
    return torch.finfo(torch.float64).eps
