"""The best rows of every group at once, without a loop over groups or a read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.quota import quota


def select_in_groups(
    values: Tensor,
    kappa: Tensor | float,
    flat_mask: Tensor | None,
    ties: str,
    group: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, each row's threshold and the total quota, the quota being filled group by group."""
    # Sorting by value and then, stably, by group lays each group out best row first, in row
    # order among equals; invalid rows come last in their group.
    best_first = torch.sort(values, descending=True, stable=True).indices
    order = best_first[torch.sort(group[best_first], stable=True).indices]
    ids, ranked = group[order], values[order]
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[1:] = ids[1:] != ids[:-1]
    segment = starts.cumsum(0) - 1
    position = torch.arange(ids.numel(), device=ids.device)
    # One slot per row is enough for any number of groups, so no size is read back.
    first = torch.zeros_like(segment).scatter_reduce_(
        0, segment, torch.where(starts, position, 0), "amax"
    )
    valid = torch.ones_like(ranked) if flat_mask is None else flat_mask[order].to(ranked.dtype)
    count = torch.zeros_like(ranked, dtype=torch.float64).scatter_add_(0, segment, valid.double())
    k = quota(count, kappa)
    last_kept = (first + k.long() - 1).clamp_min(0)[segment]
    threshold = ranked[last_kept]
    if ties == "first":
        mass = ((position - first[segment]) < k[segment]).to(ranked.dtype) * valid
    else:
        above = (ranked > threshold).double() * valid
        tied = (ranked == threshold).double() * valid
        places = k - torch.zeros_like(k).scatter_add_(0, segment, above)
        share = places / torch.zeros_like(k).scatter_add_(0, segment, tied).clamp_min(1.0)
        mass = (above + tied * share[segment]).to(ranked.dtype)
    undo = torch.empty_like(order).scatter_(0, order, position)
    return mass[undo], threshold[undo], k.sum()
