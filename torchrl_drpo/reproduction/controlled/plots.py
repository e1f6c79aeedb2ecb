"""What the figures of the controlled environments share: a colour an arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchrl_drpo.report.methods import method
from torchrl_drpo.report.plots import draw_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: By what an arm's name says of its control, the method that it is; the first that fits.
CONTROLS = {
    "positive-only": "positive-only",
    "global scale": "global-scale",
    "linear": "reciprocal-linear",
    "quadratic": "reciprocal-quadratic",
    "exponential": "tapered",
    "TOPR": "topr",
    "cut-off": "cut-off",
    "signed": "signed",
}
#: Of an arm whose name says nothing of a control.
PLAIN = "#777777"


def colour_of(name: str) -> str:
    """The colour of an arm.

    Example:
        >>> colour_of("both, exponential, alpha 4") == method("tapered").colour
        True
    """
    return next((method(key).colour for part, key in CONTROLS.items() if part in name), PLAIN)


def bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """A bar an arm, in its colour."""
    draw_bars(axes, rows, [colour_of(name) for name, _ in rows])
