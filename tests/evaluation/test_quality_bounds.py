from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrl_drpo.evaluation.quality_bounds import QualityBounds


def test_a_spread_out_quality_gets_its_quarters() -> None:
    quality = torch.randperm(1000).float()
    assert QualityBounds.from_quality(quality) == QualityBounds(250, 500, 750)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.004, (0, 1, 1)), (0.5, (0, 1, 1)), (0.996, (0, 1, 1))],
)
def test_clicks_are_one_against_zero_however_rare(share: float, expected: tuple) -> None:
    quality = torch.zeros(1000)
    quality[: int(1000 * share)] = 1
    assert QualityBounds.from_quality(quality) == QualityBounds(*expected)


@given(st.lists(st.integers(0, 5), min_size=2).filter(lambda v: len(set(v)) > 1))
def test_both_ends_and_both_classes_exist(values: list[int]) -> None:
    quality = torch.tensor(values, dtype=torch.float32)
    bounds = QualityBounds.from_quality(quality)
    assert bounds.worst < bounds.good <= bounds.best
    assert (quality <= bounds.worst).any()
    assert (quality >= bounds.best).any()
    assert (quality < bounds.good).any()


def test_quality_that_tells_nothing_apart_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"all 3 training rows have quality 0\.5"):
        QualityBounds.from_quality(torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="quality must be finite but row 1"):
        QualityBounds.from_quality(torch.tensor([0.0, math.nan]))
