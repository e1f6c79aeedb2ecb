"""Mean and standard deviation of rows on several ranks, with the same bits for any number."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.functional.exact_sums import (
    limb_sums,
    mean_and_std,
    moment_exponents,
    moment_terms,
    total_of_limbs,
)


class Moments(NamedTuple):
    """Numbers of the whole batch, 0-d, float64.

    Attributes:
        shift: the middle between the smallest and the largest value.
        mean: how far above it their mean lies; apart, so that differences are exact.
        std: the sample standard deviation, 0 where the mass is at most 1.
    """

    shift: Tensor
    mean: Tensor
    std: Tensor


def moments_over(ranks: Ranks, values: Tensor, mass: Tensor | None) -> Moments:
    """Two collectives: the range (two numbers), then sums of integers on its grid (nine).

    Args:
        ranks: the ranks whose rows are one batch.
        values: of this rank's rows, any shape, also of none; rows without mass may hold anything.
        mass: how often each row counts, in [0, 1] or boolean; ``None`` for once each.
    """
    values = values.detach().reshape(-1)
    mass = None if mass is None else mass.detach().reshape(-1)
    highest, lowest = extremes_over(ranks, values, None if mass is None else mass > 0)
    some = highest >= lowest
    shift = torch.where(some, highest / 2 + lowest / 2, 0.0)
    reach = torch.where(some, torch.maximum(highest - shift, shift - lowest), 0.0)
    exponents = moment_exponents(reach)
    limbs = ranks.sum(limb_sums(moment_terms(values, mass, shift), exponents))
    mean, std = mean_and_std(*total_of_limbs(limbs, exponents))
    return Moments(shift, mean, std)


def extremes_over(ranks: Ranks, values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Largest and smallest valid value, float64; ``-inf`` and ``inf`` without any."""
    exact = values.detach().double().reshape(-1)
    both = torch.stack([exact, -exact])
    if valid is not None:
        both = both.masked_fill(~valid.reshape(-1), -torch.inf)
    floor = both.new_full((2, 1), -torch.inf)  # of no rows there is no maximum
    highest, lowest = ranks.max(torch.cat([both, floor], 1).amax(1))
    return highest, -lowest
