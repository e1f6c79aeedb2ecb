"""What figures share: who brings which colour, and what is drawn of which seeds."""

from __future__ import annotations

import math

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from scipy import stats

from torchrl_drpo.report.methods import method
from torchrl_drpo.report.plots import axes_of, draw_bars, draw_curves, draw_line, draw_point

SEEDS = [[0.1, 0.3, 0.2], [0.5, 0.4, 0.6]]


@pytest.fixture
def axes():
    (axes,) = axes_of(Canvas(), 1)
    return axes


def test_a_label_that_names_a_method_brings_its_colour_and_another_needs_one(axes):
    curves = [[(1, 0.1), (2, 0.3)], [(1, 0.3), (2, 0.5)]]
    draw_curves(axes, curves, "drpo-q")
    draw_line(axes, [1, 2], SEEDS, "APG")
    draw_line(axes, [1, 2], SEEDS, "all rows", color="#123456")
    found = [
        (line.get_color(), line.get_linestyle()) for line in axes.lines if line.get_xdata()[1:]
    ]
    assert found[0] == (method("drpo").colour, "--")
    assert method("signed").colour in [colour for colour, _ in found]
    assert "#123456" in [colour for colour, _ in found]
    with pytest.raises(KeyError, match="no method is called 'all rows'"):
        draw_line(axes, [1, 2], SEEDS, "all rows")


def test_curves_are_means_and_ranges_of_the_runs(axes):
    draw_curves(axes, [[(1, 0.1), (2, 0.3)], [(1, 0.3), (2, 0.9)]], "BC")
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.2, 0.6])
    (band,) = axes.collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.1, 0.9))


def test_bars_and_points_carry_scipys_intervals(axes):
    draw_bars(axes, [("a", SEEDS[0]), ("b", SEEDS[1])], ["#101010", "#202020"])
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, 0.5])
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == ["#101010", "#202020"]
    low, high = stats.t.interval(0.95, 2, 0.2, stats.sem(SEEDS[0]))
    (segment, _) = axes.collections[0].get_segments()
    assert [x for x, _ in segment] == pytest.approx([low, high])


def test_a_point_that_is_not_finite_is_not_drawn(axes):
    draw_point(axes, 1.0, [0.1, math.nan])
    assert not axes.lines
    draw_point(axes, 1.0, [0.1, 0.2])
    assert axes.lines
