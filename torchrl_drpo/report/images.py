"""Figures as small PNGs: drawn without a display, then reduced to a palette."""

from __future__ import annotations

import io
import os
from pathlib import Path

from torchrl_drpo.report.reproduction import Figure

#: Enough for lines, bands and their smoothed edges; a third of the bytes of full colour.
PALETTE = 128


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


def write_png(path: Path, image: bytes) -> None:
    """Writes an image to ``path`` atomically, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(image)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # replaced already, where all went well
