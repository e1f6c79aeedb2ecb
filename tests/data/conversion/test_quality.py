from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from torchrl_drpo.data import Percentile, ReturnToGo
from torchrl_drpo.data.conversion.percentiles import FittedPercentile
from torchrl_drpo.data.conversion.quality import discounted_returns, duration_bucket, midrank


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_discounted_returns_equal_a_loop(seed, gamma):
    rng = np.random.default_rng(seed)
    reward, last = rng.normal(size=57), rng.random(57) < 0.2
    expected, running = np.zeros(57), 0.0
    for i in reversed(range(57)):
        running = reward[i] + (0.0 if last[i] else gamma * running)
        expected[i] = running
    np.testing.assert_allclose(discounted_returns(reward, last, gamma), expected, atol=1e-12)


def test_midrank_is_the_mean_percentile_of_each_group():
    rng = np.random.default_rng(0)
    group, value = rng.integers(0, 5, 300), rng.integers(0, 12, 300).astype(float)
    rank, count = midrank(group[:200], value[:200], group[200:], value[200:])
    for i in range(100):
        peers = value[:200][group[:200] == group[200 + i]]
        assert rank[i] == pytest.approx(percentileofscore(peers, value[200 + i], "mean") / 100)
        assert count[i] == len(peers)
    assert np.isnan(midrank(group[:0], value[:0], group[:1], value[:1])[0][0])


def brute_percentile(signal, users, keys, value, train):
    """Row by row: the finest group with enough training rows, else the next coarser."""
    columns = [users, *keys.T] if signal.by and signal.by[0] == "user" else list(keys.T)
    out = np.empty(len(value))
    for i in range(len(value)):
        for level in range(len(columns) + 1):
            peers = train.copy()
            for column in columns[level:]:
                peers &= column == column[i]
            if peers.sum() >= signal.min_count or level == len(columns):
                break
        out[i] = percentileofscore(value[peers], value[i], "mean") / 100
    return out


@pytest.mark.parametrize("min_count", [1, 4, 30])
def test_fitted_percentile_equals_brute_force_in_any_order_of_updates(min_count):
    rng = np.random.default_rng(1)
    n = 400
    keys = np.stack([rng.integers(0, 3, n), rng.integers(0, 6, n)], axis=1)
    value, train = rng.integers(0, 30, n).astype(float), rng.random(n) < 0.7
    signal = Percentile("p", by=("a", "b"), min_count=min_count)
    fitted = FittedPercentile(signal)
    for part in np.array_split(np.flatnonzero(train), 7):
        fitted.update(keys[part], value[part])
    expected = brute_percentile(signal, None, keys, value, train)
    np.testing.assert_allclose(fitted.transform(keys, value, None), expected)


def test_fitted_percentile_saves_and_loads(tmp_path):
    rng = np.random.default_rng(2)
    keys, value = rng.integers(-1, 4, (200, 1)), rng.normal(size=200)
    fitted, again = (FittedPercentile(Percentile("p", by=("a",), min_count=2)) for _ in range(2))
    fitted.update(keys, value)
    again.load(fitted.arrays())
    probe = rng.normal(size=200)
    np.testing.assert_array_equal(
        again.transform(keys, probe, None), fitted.transform(keys, probe, None)
    )


def test_thinned_tables_err_by_less_than_a_cell_and_keep_atoms():
    rng = np.random.default_rng(3)
    # a third of the mass at zero, as play times have it
    value = np.where(rng.random(50_000) < 1 / 3, 0.0, rng.exponential(size=50_000))
    none = np.zeros((len(value), 0), dtype=np.int64)
    coarse = FittedPercentile(Percentile("p"), max_cells=200)
    for part in np.array_split(value, 9):
        coarse.update(none[: len(part)], part)
    assert len(coarse.tables[(0,)].low) <= 200
    probe = np.concatenate([[0.0, 1e-9], rng.exponential(size=300)])
    exact = percentileofscore(value, probe, "mean") / 100
    assert np.abs(coarse.transform(none[: len(probe)], probe, None) - exact).max() < 1 / 100


def test_duration_buckets_are_floors_of_logarithms():
    duration = np.array([1, 1.99, 2, 3.99, 4, 1023, 1024, 0, -5])
    assert duration_bucket(duration, 2.0).tolist() == [0, 0, 1, 1, 2, 9, 10, -1, -1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Percentile("p", by=("duration_bucket",)), "come together"),
        (lambda: Percentile("p", duration="d"), "come together"),
        (lambda: Percentile("p", base=1.0), "base must be above 1"),
        (lambda: Percentile("p", min_count=0), "at least 1"),
        (lambda: Percentile("p", by=("a", "user")), "put it first"),
        (lambda: ReturnToGo("r", gamma=1.5), "gamma must lie in"),
        (
            lambda: FittedPercentile(Percentile("p")).transform(
                np.zeros((1, 0), dtype=np.int64), np.zeros(1), None
            ),
            "needs training rows",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
