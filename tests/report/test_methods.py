"""One name and one colour a method: told apart, complete, and the same everywhere."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from torchrl_drpo.pipeline.demo.runs import METHODS as DEMO
from torchrl_drpo.pipeline.objectives.named import NAMES
from torchrl_drpo.report.methods import METHODS, SERIES, method
from torchrl_drpo.reproduction.controlled.plots import CONTROLS
from torchrl_drpo.reproduction.kuairand.figures import STYLES
from torchrl_drpo.reproduction.kuairand.methods import PATHS
from torchrl_drpo.reproduction.simulator.beyond.target import BASELINES, CANDIDATES
from torchrl_drpo.reproduction.simulator.runs import METHODS as COMPARED


def lab(colour: str) -> tuple[float, float, float]:
    """CIE L*a*b* of an sRGB colour (IEC 61966-2-1, white point D65)."""
    srgb = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb)
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_no_two_methods_look_alike():
    shown = {(m.colour, m.line) for m in METHODS.values()}
    assert len(shown) == len({m.name for m in METHODS.values()}) == len(METHODS)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour, _ in shown)
    colours = {colour for colour, _ in shown}
    assert not colours & set(SERIES)
    # A just noticeable difference is about 2.3; thin lines need far more.
    nearest = min(math.dist(lab(a), lab(b)) for a, b in itertools.combinations(colours, 2))
    assert nearest > 15


def test_a_variant_of_another_signal_has_its_bases_colour_and_a_line_of_its_own():
    bases = {"taper": "tapered", "positive-only": "positive-only", "drpo": "drpo"}
    for (name, base), signal in itertools.product(bases.items(), "qa"):
        variant = method(f"{name}-{signal}")
        assert variant.colour == method(base).colour
        assert variant.line != method(base).line
    for base in ("bc", "positive-only", "drpo", "conditioned"):
        assert method(f"{base}-tilt").colour == method(base).colour


def test_everything_that_is_trained_has_a_name_and_a_colour():
    assert set(NAMES) <= set(METHODS)  # all that `drpo train --objectives` takes, by its key
    for name in (*DEMO, "random", "oracle", *COMPARED):
        assert method(name).name == name  # what is shown, as it is shown
    assert {key for key, _ in STYLES.values()} | set(CONTROLS.values()) <= set(METHODS)
    assert set(STYLES) == set(PATHS)


@pytest.mark.parametrize(
    ("key", "table"),
    [("uphill", CANDIDATES), ("uphill-tapered", CANDIDATES), ("taper-q", CANDIDATES),
     ("drpo-q", CANDIDATES), ("drpo-kl", CANDIDATES), ("signed", BASELINES), ("bc", BASELINES)],
)  # fmt: skip
def test_a_command_s_objective_is_called_in_tables_what_it_is_called_here(key: str, table):
    assert method(key).name in table


def test_an_unknown_method_is_named():
    with pytest.raises(KeyError, match="no method is called 'DPRO'"):
        method("DPRO")
