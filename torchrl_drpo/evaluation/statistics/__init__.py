"""Statistics over seeds and users: intervals, paired comparisons, many tests, late windows."""

from torchrl_drpo.evaluation.statistics.intervals import Interval, mean_interval
from torchrl_drpo.evaluation.statistics.jackknife import jackknife_interval
from torchrl_drpo.evaluation.statistics.multiple import holm
from torchrl_drpo.evaluation.statistics.paired import (
    corrected_p_values,
    paired_interval,
    paired_p_value,
)
from torchrl_drpo.evaluation.statistics.student import student_p_value, student_t_quantile
from torchrl_drpo.evaluation.statistics.windows import LATE_WINDOW, late_window

__all__ = [
    "LATE_WINDOW",
    "Interval",
    "corrected_p_values",
    "holm",
    "jackknife_interval",
    "late_window",
    "mean_interval",
    "paired_interval",
    "paired_p_value",
    "student_p_value",
    "student_t_quantile",
]
