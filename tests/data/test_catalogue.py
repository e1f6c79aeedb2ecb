from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import Catalogue

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)  # as in Arrow
IDS = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=40),
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.lists(TEXT, min_size=1, max_size=40),
)


@settings(deadline=None)
@given(ids=IDS)
def test_encode_and_decode_are_inverse_and_ascending(ids):
    catalogue = Catalogue.from_ids(ids)
    expected = sorted(set(ids), key=lambda i: i.encode() if isinstance(i, str) else i)
    assert catalogue.decode(range(len(catalogue))) == expected
    number = catalogue.encode(np.array(ids, dtype=object))
    assert [expected[n] for n in number] == ids


@settings(deadline=None, max_examples=30)
@given(ids=IDS)
def test_save_and_load(ids, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "context.tab"
    catalogue = Catalogue.from_ids(ids)
    catalogue.save(path)
    assert Catalogue.load(path) == catalogue


def test_extension_keeps_the_numbers():
    old = Catalogue.from_ids([5, 900_000_000_000, 7])
    new = old.extended([6, 5, 1])
    assert new.decode(range(5)) == [5, 7, 900_000_000_000, 1, 6]
    assert old.extended([5]) is old


def test_unknown_ids():
    catalogue = Catalogue.from_ids(["a", "é"])
    assert catalogue.encode(["é", "b"], unknown="missing").tolist() == [1, -1]
    with pytest.raises(KeyError, match="id 'b' is not in the catalogue of 2 string ids"):
        catalogue.encode(["a", "b"])
    with pytest.raises(KeyError, match="id 3 is not"):
        catalogue.encode(torch.tensor([3]))
    with pytest.raises(IndexError, match=r"lie in \[0, 2\), got 2"):
        catalogue.decode([0, 2])


def test_mixed_or_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="all integers or all strings"):
        Catalogue.from_ids(["a", 1])
    with pytest.raises(ValueError, match="distinct; 3 repeats"):
        Catalogue([3, 3])
    with pytest.raises(ValueError, match="integers or strings, got float64"):
        Catalogue(np.array([0.5]))
