"""The sample of a log's instants: the same however its rows are ordered and split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchrl_drpo.data.conversion.times import Instants


class Few(Instants):
    most = 20


def counted(times: np.ndarray) -> Few:
    out = Few()
    for batch in np.array_split(times, 3):
        out.add(*np.unique(batch, return_counts=True))
    return out


@given(seed=st.integers(0, 1000), pieces=st.integers(1, 6), spread=st.sampled_from([15, 90, 3000]))
@example(seed=105, pieces=4, spread=3000)  # a split that is thinned as it is taken
def test_instants_are_kept_by_what_they_are(seed, pieces, spread):
    """Splits are thinned each as far as it needs, then all of them together."""
    draw = np.random.default_rng(seed)
    times = draw.integers(-spread, spread, 300) * draw.integers(1, 1 << 40)
    cuts = np.sort(draw.integers(0, 300, pieces - 1))
    whole, joined = counted(times), Few()
    for part in np.split(draw.permutation(times), cuts):
        joined.merge(counted(part))
    found, rows = joined.taken()
    for mine, other in zip(whole.taken(), (found, rows), strict=True):
        assert np.array_equal(mine, other)
    every, counts = np.unique(times, return_counts=True)
    place = np.searchsorted(every, found)
    assert np.array_equal(every[place], found)
    assert np.array_equal(counts[place], rows)  # no instant is divided
    assert len(found) <= Few.most
    assert len(every) > Few.most or len(found) == len(every)


def test_about_half_are_left_at_each_step():
    instants = Instants()
    every = np.arange(1 << 18) * 1000
    instants.add(every, np.ones(len(every), dtype=np.int64))
    kept = len(instants.taken()[0])
    assert kept in (pytest.approx(1 << 17, abs=1000), pytest.approx(1 << 16, abs=1000))
    assert kept <= 1 << 17
