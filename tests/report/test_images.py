"""Figures as files: deterministic, small, atomic, and without pyplot's global state."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image

from torchrl_drpo import files
from torchrl_drpo.report.images import Figure, png, write_png


def draw(canvas: Canvas) -> None:
    axes = canvas.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], color="#D55E00", linewidth=6)


def test_the_same_numbers_give_the_same_bytes_in_the_size_asked_for():
    figure = Figure("a", "caption", draw, size=(3.0, 2.0))
    first = png(figure, dpi=100)
    assert png(figure, dpi=100) == first
    image = Image.open(io.BytesIO(first))
    assert image.size == (300, 200)
    assert image.mode == "P"  # a palette, a third of the bytes
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    near = [
        c for c in colours if max(abs(a - b) for a, b in zip(c, (0xD5, 0x5E, 0), strict=True)) < 8
    ]
    assert near  # the line keeps its colour
    assert (255, 255, 255) in colours


def test_drawing_opens_no_figure_of_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    png(Figure("a", "caption", draw, size=(2.0, 2.0)))
    assert plt.get_fignums() == before


def test_an_image_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "figures" / "a.png"
    write_png(path, b"old")
    assert path.read_bytes() == b"old"

    def no_room(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", no_room)
        with pytest.raises(OSError, match="no space left"):
            write_png(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    write_png(path, b"new")
    assert path.read_bytes() == b"new"
