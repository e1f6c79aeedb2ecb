"""Which rows of a batch to learn from: the training step's selection, and how kappa moves.

:func:`select_top` keeps a whole quota K of rows, as in the algorithm box of arXiv 2602.10430; the
program that it stands for is solved exactly in :mod:`torchrl_drpo.functional.dro_programs`.
Nothing here reads a value back to the host: kappa may be a tensor on the device.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_same_shape
from torchrl_drpo.functional.group_selection import select_in_groups
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.masks import valid_or_lowest
from torchrl_drpo.functional.quota import quota, quota_on_host
from torchrl_drpo.functional.reductions import weighted_moments

Ties = Literal["first", "fraction"]


class TopSelection(NamedTuple):
    """What :func:`select_top` decided; every tensor is detached and on the quality's device.

    Attributes:
        mass: how much of each row is kept, in [0, 1], shape of the quality; sums to ``quota``.
        threshold: nu, the quality of the K-th best row; with groups, that of each row's group.
        quota: K, the number of rows kept, 0-d (float64, so that large counts stay exact).
        kept_mean: mean quality of the kept mass, 0-d.
        kept_std: sample standard deviation of the quality in the kept mass, 0-d (0 when K < 2).
        batch_std: sample standard deviation of the quality of all valid rows, 0-d.
    """

    mass: Tensor
    threshold: Tensor
    quota: Tensor
    kept_mean: Tensor
    kept_std: Tensor
    batch_std: Tensor


class BestRows(NamedTuple):
    """What :func:`best_rows` found; every tensor is detached.

    Attributes:
        rows: indices of the K best rows, best first, ``[K]``.
        quality: their quality, ``[K]``; the last is the threshold nu.
        quota: K.
        batch: number of rows of the batch.
        kept_mean: mean quality of the K rows, 0-d.
        kept_std: sample standard deviation of the quality of the K rows, 0-d (0 when K < 2).
        batch_std: sample standard deviation of the quality of all rows, 0-d.
    """

    rows: Tensor
    quality: Tensor
    quota: int
    batch: int
    kept_mean: Tensor
    kept_std: Tensor
    batch_std: Tensor


def select_top(
    quality: Tensor,
    kappa: Tensor | float,
    *,
    mask: Tensor | None = None,
    ties: Ties = "fraction",
    group: Tensor | None = None,
) -> TopSelection:
    """The training step's selection: the K best rows of a batch, K = :func:`quota` of its size.

    Source: arXiv 2602.10430, algorithm box, line 1.

    Args:
        quality: quality signal, any shape, finite where ``mask`` is true.
        kappa: fraction in (0, 1], a number or a 0-d tensor.
        mask: ``True`` where a row exists; the others are never kept.
        ties: who fills the last places when rows tie at the threshold: ``"fraction"`` shares them
            equally, ``"first"`` takes the lowest row index first.
        group: integer ids of the quality's shape; the quota is then filled within each group.

    Returns:
        A :class:`TopSelection`.

    Raises:
        ValueError: if the shapes differ, ``kappa`` lies outside (0, 1] or ``ties`` is unknown.

    Examples:
        >>> select_top(torch.tensor([1.0, 5.0, 3.0, 3.0]), 0.5, ties="first").mass
        tensor([0., 1., 1., 0.])
        >>> select_top(torch.tensor([1.0, 5.0, 3.0, 3.0]), 0.5, ties="fraction").mass
        tensor([0.0000, 1.0000, 0.5000, 0.5000])
    """
    values, flat_mask = checked_rows(quality, kappa, mask, ties, group)
    if mask is None and group is None and reads_are_free(values):
        return _select_on_host(values, kappa, ties, quality.shape)
    if group is None:
        valid = values.numel() if flat_mask is None else flat_mask.sum()
        k = quota(valid, kappa).to(values.device)
        threshold = kth_largest(values, k)
        mass = _fill(values, threshold, k, flat_mask, ties)
        threshold = threshold.squeeze(-1)
    else:
        mass, threshold, k = select_in_groups(values, kappa, flat_mask, ties, group.reshape(-1))
        threshold = threshold.reshape(quality.shape)
    kept_mean, kept_std = weighted_moments(values, mass)
    _, batch_std = weighted_moments(values, flat_mask)
    return TopSelection(mass.reshape(quality.shape), threshold, k, kept_mean, kept_std, batch_std)


def checked_rows(
    quality: Tensor,
    kappa: Tensor | float,
    mask: Tensor | None,
    ties: Ties,
    group: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """What a selection works on: flat values, the lowest where the mask excludes, and the mask.

    Raises:
        ValueError: if the shapes differ, ``kappa`` lies outside (0, 1] or ``ties`` is unknown.
    """
    check_same_shape(quality=quality, mask=mask, group=group)
    check_fraction("kappa", kappa)
    if ties not in ("first", "fraction"):
        raise ValueError(f"ties must be 'first' or 'fraction', got {ties!r}")
    flat_mask = None if mask is None else mask.reshape(-1)
    return valid_or_lowest(quality, flat_mask), flat_mask


def best_rows(
    quality: Tensor, kappa: Tensor | float, *, shared_places: bool = True
) -> BestRows | None:
    """:func:`select_top` of a batch on the host, as the kept rows and not as a mass of each row.

    Args:
        quality: quality signal of an eager CPU batch, ``[N]``, finite.
        kappa: fraction in (0, 1], a number or a 0-d tensor.
        shared_places: whether it matters who fills the last places; it does not to a rule that
            gives rows at the threshold no weight.

    Returns:
        The K best rows, or ``None`` if these are all rows, or if it matters and more rows tie at
        the threshold than there are places.

    Raises:
        ValueError: if ``kappa`` lies outside (0, 1].

    Examples:
        >>> best_rows(torch.tensor([1.0, 5.0, 3.0]), 0.5).rows
        tensor([1, 2])
        >>> best_rows(torch.tensor([1.0, 3.0, 3.0, 3.0]), 0.5) is None
        True
    """
    values = valid_or_lowest(quality, None)
    count = values.numel()
    k = quota_on_host(count, kappa)
    if k == count:
        return None
    ranked, rows = torch.topk(values, k + 1 if shared_places else k)
    if shared_places:
        last, next_best = ranked[k - 1 :].tolist()
        if last == next_best:
            return None
        ranked, rows = ranked[:k], rows[:k]
    kept_mean, kept_std = weighted_moments(ranked)
    _, batch_std = weighted_moments(values)
    return BestRows(rows, ranked, k, count, kept_mean, kept_std, batch_std)


def kappa_step(
    kappa: Tensor,
    kept_std: Tensor,
    batch_std: Tensor,
    *,
    target_ratio: float = 0.5,
    bounds: tuple[float, float] = (0.05, 1.0),
    up: float = 1.02,
    down: float = 0.98,
) -> Tensor:
    """One step of the adaptive filter: keep more while the kept rows are uniform enough.

    ``kappa`` grows by ``up`` when ``kept_std < target_ratio * batch_std`` and shrinks by ``down``
    otherwise, within ``bounds``. Source: arXiv 2602.10430, algorithm box, line 2.

    Args:
        kappa: current fraction, in (0, 1].
        kept_std: standard deviation of the quality among the kept rows.
        batch_std: standard deviation of the quality over the batch.
        target_ratio: lambda, the wanted ratio of the two.
        bounds: smallest and largest fraction.
        up: factor of growth, above 1.
        down: factor of decay, below 1.

    Returns:
        The next fraction, of ``kappa``'s type and device.

    Examples:
        >>> kappa_step(torch.tensor(0.5), torch.tensor(0.1), torch.tensor(1.0))
        tensor(0.5100)
    """
    low, high = bounds
    if reads_are_free(kept_std) and kept_std.numel() == 1 and kappa.is_cpu:
        uniform = float(kept_std) < target_ratio * float(batch_std)
        return (kappa * up).clamp_max(high) if uniform else (kappa * down).clamp_min(low)
    grown, decayed = (kappa * up).clamp_max(high), (kappa * down).clamp_min(low)
    return torch.where(kept_std < target_ratio * batch_std, grown, decayed)


def kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """The ``k``-th largest entry, shape [1]; ``k`` stays on the device (0 counts as 1)."""
    ordered = torch.sort(values, descending=True).values
    if ordered.numel() == 0:
        return values.new_full((1,), -torch.inf)
    return ordered.gather(0, (k.long() - 1).clamp_min(0).reshape(1))


def _fill(
    values: Tensor, threshold: Tensor, k: Tensor, flat_mask: Tensor | None, ties: Ties
) -> Tensor:
    """Mass in [0, 1] of each row, summing to ``k``."""
    above = values > threshold
    tied = values == threshold
    if flat_mask is not None:
        tied &= flat_mask
    places = k - above.sum()
    if ties == "first":
        return (above | (tied & (tied.cumsum(0) <= places))).to(values.dtype)
    share = (places / tied.sum().clamp_min(1)).to(values.dtype)
    return above + tied * share


def _select_on_host(
    values: Tensor, kappa: Tensor | float, ties: Ties, shape: torch.Size
) -> TopSelection:
    """The common case, where K may be read: a partial sort, and the kept values themselves."""
    k_rows = quota_on_host(values.numel(), kappa)
    k = torch.tensor(k_rows, dtype=torch.float64)
    best = torch.topk(values, k_rows).values
    threshold = best[-1:]
    kept = values >= threshold
    crowded = int(kept.sum()) > k_rows  # more rows tie at the threshold than there are places
    mass = _fill(values, threshold, k, None, ties) if crowded else kept.to(values.dtype)
    kept_mean, kept_std = weighted_moments(best)
    _, batch_std = weighted_moments(values)
    return TopSelection(
        mass.reshape(shape), threshold.squeeze(0), k, kept_mean, kept_std, batch_std
    )
