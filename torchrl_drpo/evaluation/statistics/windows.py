"""The late window of a training run: its end is judged, and no checkpoint is picked."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

#: The last share of a run whose evaluations are averaged, in place of the best or the last one.
LATE_WINDOW = 0.2


def late_window(steps: Sequence[float], total: float | None = None) -> slice:
    """Which evaluations lie in the last :data:`LATE_WINDOW` of a run.

    Args:
        steps: of the evaluations, rising.
        total: steps of the run; the last evaluation's by default.

    Returns:
        A slice of the evaluations; it holds the last one at least.

    Raises:
        ValueError: if there is no evaluation.

    Example:
        >>> steps = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
        >>> steps[late_window(steps)]
        [900, 1000]
    """
    if not steps:
        raise ValueError("a late window needs at least one evaluation, got none")
    end = steps[-1] if total is None else total
    start = bisect_right(steps, (1 - LATE_WINDOW) * end)
    return slice(min(start, len(steps) - 1), None)
