"""Rank correlations: partial ones, and as a share of what ties leave possible."""

from __future__ import annotations

import numpy as np


def rank_correlation_share(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation over the largest that these values could have, and itself.

    Ties keep the correlation below 1 even where ``x`` decides ``y``: a score that separates
    clicks from the rest without an error has the share 1, and a correlation far below it.

    >>> share, correlation = rank_correlation_share(np.arange(100.0), np.arange(100) >= 90)
    >>> share, round(correlation, 2)
    (1.0, 0.52)
    """
    if len(x) < 4:
        return 0.0, 0.0
    correlation = _rank_correlation(x, y)
    towards = np.sort(y) if correlation >= 0 else np.sort(y)[::-1]
    largest = abs(_rank_correlation(np.sort(x), towards))
    return (float(np.round(correlation / largest, 12)) if largest else 0.0), correlation


def partial_rank_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Spearman's correlation of x and y once both are freed of what ``given``'s rank tells.

    >>> rng = np.random.default_rng(0)
    >>> z, noise = rng.normal(size=(2, 2_000))
    >>> y = z + rng.normal(size=2_000)
    >>> abs(partial_rank_correlation(z + noise, y, z)) < 0.1 < partial_rank_correlation(y, y, z)
    True
    """
    if len(x) < 4:
        return 0.0
    xy, xz, yz = (_rank_correlation(a, b) for a, b in ((x, y), (x, given), (y, given)))
    scale = np.sqrt(max(1 - xz**2, 0.0) * max(1 - yz**2, 0.0))
    return float((xy - xz * yz) / scale) if scale > 1e-9 else 0.0


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = _ranks(a), _ranks(b)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
