"""The best rows of a batch whose rows lie on several ranks: the same rows as on one.

Four small collectives for float32 qualities, whatever the number of rows: three histograms, and
one gather of 13 integers a rank. They need the quality signal alone. Nothing is read by the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.moments import moments_over
from torchrl_drpo.functional.exact_sums import (
    exponent_of,
    limb_sums,
    mean_and_std,
    moment_terms,
    total_of_limbs,
)
from torchrl_drpo.functional.group_selection import select_in_groups
from torchrl_drpo.functional.quota import quota
from torchrl_drpo.functional.radix import (
    DIGITS,
    Search,
    histogram,
    narrowed,
    ordered_bits,
    value_of_bits,
)
from torchrl_drpo.functional.selection import Ties, TopSelection, checked_rows


def select_top_over(
    ranks: Ranks,
    quality: Tensor,
    kappa: Tensor | float,
    *,
    mask: Tensor | None = None,
    ties: Ties = "fraction",
    group: Tensor | None = None,
) -> TopSelection:
    """:func:`~torchrl_drpo.functional.selection.select_top` of the rows of all ranks.

    Mass, threshold and quota have the bits that the selection has on the concatenated batch, in
    the order of the ranks; means and standard deviations have the same bits for any number of
    ranks, and agree with the others' within rounding.

    Args:
        ranks: the ranks whose rows are one batch.
        quality: of this rank's rows, any shape, also of none; float32 or float64, on every rank
            the same.
        kappa: fraction in (0, 1], the same on every rank.
        mask: ``True`` where a row exists.
        ties: ``"fraction"``, or ``"first"``: the lowest rank first, and its lowest row.
        group: integer ids; the quota is filled within each group, whose rows lie on one rank.

    Returns:
        A selection of this rank's rows; its 0-d numbers are those of the whole batch.

    Raises:
        ValueError: if the shapes differ, ``kappa`` lies outside (0, 1] or ``ties`` is unknown.
    """
    values, flat_mask = checked_rows(quality, kappa, mask, ties, group)
    if group is not None:
        return _grouped(ranks, values, kappa, flat_mask, ties, group, quality.shape)
    valid = torch.ones_like(values, dtype=torch.bool) if flat_mask is None else flat_mask
    bits = ordered_bits(values)
    found, count, k = _searched(ranks, bits, valid, kappa, values.dtype)
    some = count > 0
    nu, highest, lowest = torch.where(some, value_of_bits(found.prefix, values.dtype), 0.0)
    above, tied = valid & (values > nu), valid & (bits == found.prefix[0])

    reach = torch.maximum(highest.double() - nu.double(), nu.double() - lowest.double())
    everyone, sums = _gathered_sums(ranks, values, nu.double(), reach, above, valid, tied)
    places = found.wanted[0]
    if ties == "first":
        before = everyone[: ranks.rank].sum()
        mass = (above | (tied & (tied.cumsum(0) + before <= places))).to(values.dtype)
    else:
        share = (places.double() / found.count[0].clamp_min(1)).to(values.dtype)
        mass = above + tied * share
    kept_mean, kept_std = mean_and_std(k, *sums[0])
    _, batch_std = mean_and_std(count.double(), *sums[1])
    numbers = nu.double() + kept_mean, kept_std, batch_std
    threshold = torch.where(some, nu, -torch.inf)
    return TopSelection(
        mass.reshape(quality.shape), threshold, k, *(x.to(values.dtype) for x in numbers)
    )


def _searched(
    ranks: Ranks, bits: Tensor, valid: Tensor, kappa: Tensor | float, dtype: torch.dtype
) -> tuple[Search, Tensor, Tensor]:
    """The K-th largest, the largest and the smallest value; the number of rows, and K."""
    digits = DIGITS[dtype]
    shift = sum(digits) - digits[0]
    counts = ranks.sum(histogram(bits, valid, None, shift, digits[0]))
    count = counts.long().sum()
    k = quota(count, kappa)
    wanted = torch.stack([k.long(), torch.ones_like(count), count])
    start = Search(torch.zeros_like(wanted), wanted, count.expand(3))
    search = narrowed(start, counts, shift)
    for digit_bits in digits[1:]:
        shift -= digit_bits
        counts = ranks.sum(histogram(bits, valid, search.prefix, shift, digit_bits))
        search = narrowed(search, counts, shift)
    return search, count, k


def _gathered_sums(
    ranks: Ranks,
    values: Tensor,
    nu: Tensor,
    reach: Tensor,
    above: Tensor,
    valid: Tensor,
    tied: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ties of every rank, ``[R]``; sums of R - nu and of its square, kept and of all, ``[2, 2]``.

    Ties at the threshold are 0 in both: it does not matter which of them are kept.
    """
    terms = torch.stack([moment_terms(values, rows, nu)[1:] for rows in (above, valid)])
    e = exponent_of(reach)
    exponents = torch.stack([e, 2 * e]).expand(2, 2)
    own = torch.cat([tied.sum().reshape(1), limb_sums(terms, exponents).reshape(-1)])
    everyone = ranks.gather(own)
    limbs = everyone[:, 1:].sum(0).reshape(2, 2, -1)
    return everyone[:, 0], total_of_limbs(limbs, exponents)


def _grouped(
    ranks: Ranks,
    values: Tensor,
    kappa: Tensor | float,
    flat_mask: Tensor | None,
    ties: Ties,
    group: Tensor,
    shape: torch.Size,
) -> TopSelection:
    mass, threshold, k = select_in_groups(values, kappa, flat_mask, ties, group.reshape(-1))
    kept = moments_over(ranks, values, mass)
    batch = moments_over(ranks, values, flat_mask)
    dtype = values.dtype
    numbers = (kept.shift + kept.mean).to(dtype), kept.std.to(dtype), batch.std.to(dtype)
    return TopSelection(
        mass.reshape(shape), threshold.reshape(shape), ranks.sum(k.reshape(())), *numbers
    )
