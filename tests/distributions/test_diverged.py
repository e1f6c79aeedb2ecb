"""A distribution without defined probabilities names its row, and draws nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical, SemanticIDCategorical, _tiles
from torchrl_drpo.policies.decoding import MIPSDecoder

ROWS, V, D = 5, 20, 3
ASKED: dict[str, Callable[[CatalogueCategorical], object]] = {
    "sample": lambda dist: dist.sample(),
    "samples": lambda dist: dist.sample((3,)),
    "mode": lambda dist: dist.mode,
    "deterministic_sample": lambda dist: dist.deterministic_sample,
    "topk": lambda dist: dist.topk(2),
}
Broken = Callable[[Tensor, Tensor, Tensor], None]


def _row(value: float) -> Broken:
    return lambda hidden, items, bias: hidden[3].fill_(value)


#: Which parameter is broken, and the first row that it leaves without a distribution.
BROKEN: dict[str, tuple[Broken, int, str]] = {
    "a NaN state": (_row(math.nan), 3, "hold nan"),
    "an infinite state": (_row(math.inf), 3, "hold (nan|inf)"),
    "one NaN item": (lambda hidden, items, bias: items[17].fill_(math.nan), 0, "hold nan"),
    "a NaN bias": (lambda hidden, items, bias: bias[2].fill_(math.nan), 0, "hold nan"),
    "nothing allowed": (lambda hidden, items, bias: bias.fill_(-math.inf), 0, "every item is excl"),
}


@pytest.fixture(params=["one tile", "many tiles"], autouse=True)
def _tiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(_tiles, "TILE_ITEMS", 7)
        monkeypatch.setitem(_tiles.TILE_ELEMENTS, "cpu", 14)  # two rows at a time


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_catalogue_names_the_row(asked: str, broken: str):
    change, row, what = BROKEN[broken]
    hidden, items, bias = torch.randn(ROWS, D), torch.randn(V, D), torch.randn(V)
    whole = CatalogueCategorical(hidden.clone(), items.clone(), bias.clone())
    change(hidden, items, bias)
    dist = CatalogueCategorical(hidden, items, bias)
    with pytest.raises(ValueError, match=f"row {row} has no distribution over items: .*{what}"):
        ASKED[asked](dist)
    ASKED[asked](whole)


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_every_shape_is_looked_at(batch: tuple[int, ...]):
    dist = CatalogueCategorical(torch.full((*batch, D), math.nan), torch.randn(V, D))
    if 0 in batch:
        assert dist.sample().shape == batch
        return
    with pytest.raises(ValueError, match="row 0 has no distribution"):
        dist.sample()


@pytest.mark.parametrize("asked", ["sample", "mode"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_level_of_codes_that_counts_does_too(asked: str, value: float):
    logits, mask = torch.randn(ROWS, 3, 4), torch.ones(ROWS, 3, dtype=torch.bool)
    logits[2, 1, 0] = value
    with pytest.raises(ValueError, match="row 2 has no distribution"):
        ASKED[asked](SemanticIDCategorical(logits, mask))
    mask[2, 1] = False
    assert ASKED[asked](SemanticIDCategorical(logits, mask))[2, 1] == 0
    logits[2, 1] = -math.inf
    with pytest.raises(ValueError, match="every item is excluded"):
        ASKED[asked](SemanticIDCategorical(logits))


def test_nothing_is_nearest_to_a_nan_query():
    query = torch.randn(3, D)
    query[1] = math.nan
    score, index = MIPSDecoder(torch.randn(V, D)).decode(query, k=2)
    assert score[1].isnan().all()
    assert (index[1] == -1).all()
    assert (index[[0, 2]] >= 0).all()
