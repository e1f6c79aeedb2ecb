"""Late windows against counting."""

from __future__ import annotations

import pytest

from torchrl_drpo.evaluation.statistics import late_window


@pytest.mark.parametrize(
    ("steps", "total", "late"),
    [
        (range(200, 5_001, 200), 5_000, 5),  # 4,200 to 5,000: 4,000 is not in the last fifth
        (range(0, 2_501, 125), 2_500, 4),
        (range(2, 11, 2), None, 1),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 95], 100, 2),  # 90 and 95
        ([3], None, 1),
        ([3], 100, 1),  # the last one, wherever it is
        (range(-500, 1_501, 100), 1_500, 3),  # steps before a start, which is at 0
    ],
)
def test_the_last_fifth_is_counted(steps, total, late: int) -> None:
    steps = list(steps)
    assert steps[late_window(steps, total)] == steps[-late:]


def test_a_run_that_was_never_looked_at_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one evaluation"):
        late_window([])
