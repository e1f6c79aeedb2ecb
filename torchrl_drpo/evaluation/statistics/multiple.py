"""Many tests at once: p values that account for how many there were."""

from __future__ import annotations

import math
from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the chance of even one false alarm stays below the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Args:
        p_values: by name, in [0, 1]; NaN stays NaN and does not count as a test.

    Returns:
        By name, the corrected p values, in [0, 1].

    Raises:
        ValueError: if a p value lies outside [0, 1].

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    for name, p in p_values.items():
        if p < 0 or p > 1:
            raise ValueError(f"a p value must lie in [0, 1], got {p} for {name!r}")
    tested = {name: p for name, p in p_values.items() if not math.isnan(p)}
    out, floor = {}, 0.0
    for rank, name in enumerate(sorted(tested, key=lambda name: tested[name])):
        floor = max(floor, min(1.0, (len(tested) - rank) * tested[name]))
        out[name] = floor
    return out | {name: math.nan for name in p_values if name not in tested}
