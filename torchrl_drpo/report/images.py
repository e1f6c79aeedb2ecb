"""Figures as small PNGs: drawn without a display, then reduced to a palette."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchrl_drpo.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Enough for lines, bands and their smoothed edges; a third of the bytes of full colour.
PALETTE = 128


@dataclass(frozen=True)
class Figure:
    """A figure that draws itself from saved numbers.

    Attributes:
        name: stem of its file.
        caption: what it shows, and how to read it.
        draw: draws on an empty matplotlib figure.
        size: width and height in inches.
    """

    name: str
    caption: str
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (10.0, 3.6)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Draws a figure.

    Args:
        figure: what to draw.
        dpi: pixels an inch.

    Returns:
        The PNG's bytes, the same for the same numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from PIL import Image

    canvas = Canvas(figsize=figure.size, layout="constrained")
    FigureCanvasAgg(canvas)  # no pyplot: nothing global is touched, nothing is kept
    figure.draw(canvas)
    pixels = io.BytesIO()
    canvas.savefig(pixels, format="png", dpi=dpi, facecolor="white")
    full = Image.open(pixels).convert("RGB")
    # Dithering would speckle flat areas and undo the compression.
    small = full.quantize(PALETTE, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, format="png", optimize=True)
    return out.getvalue()


def write_png(path: str | os.PathLike[str], image: bytes) -> None:
    """Writes an image to ``path`` in one step, making its folder where needed."""
    with replacing(path) as file:
        file.write_bytes(image)
