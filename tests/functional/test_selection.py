"""The training step's selection and its kappa, by closed form and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.dro_programs import (
    optimistic_dro_weights,
)
from torchrl_drpo.functional.quota import quota
from torchrl_drpo.functional.reductions import weighted_moments
from torchrl_drpo.functional.selection import best_rows, kappa_step, select_top

# Few distinct values, so that ties are the rule; quarters, so that float32 sums are exact.
qualities = st.lists(st.integers(-8, 8).map(lambda q: q / 4), min_size=1, max_size=40)
kappas = st.floats(0.01, 1.0)


@given(quality=qualities, kappa=kappas, data=st.data())
def test_a_mask_equals_dropping_rows(quality, kappa, data):
    r = torch.tensor(quality)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(r), max_size=len(r))))
    noisy = torch.where(mask, r, torch.nan)  # padding may hold anything
    w = optimistic_dro_weights(noisy, kappa, mask)
    assert (w[~mask] == 0).all()
    torch.testing.assert_close(w[mask], optimistic_dro_weights(r[mask], kappa))
    for ties in ("first", "fraction"):
        masked = select_top(noisy, kappa, mask=mask, ties=ties)
        assert (masked.mass[~mask] == 0).all()
        if mask.any():
            dropped = select_top(r[mask], kappa, ties=ties)
            torch.testing.assert_close(masked.mass[mask], dropped.mass)
            for name in ("threshold", "quota", "kept_mean", "kept_std", "batch_std"):
                torch.testing.assert_close(getattr(masked, name), getattr(dropped, name))


def test_quota_rounds_half_up_in_float64():
    assert quota(1000, 0.1) == 100  # ceil(float32(0.1) * 1000) would be 101
    assert quota(5, 0.5) == 3
    assert quota(5, 0.1) == 1  # .5 rounds up, and at least one
    assert quota(10, 0.01) == 1
    assert quota(0, 0.5) == 0
    assert quota(10**9, 1.0) == 10**9
    counts = torch.arange(1, 2000)
    for kappa in (0.05, 0.1, 0.3, 0.7, 0.9):
        want = [max(1, (2 * round(kappa * 100) * n + 100) // 200) for n in counts.tolist()]
        assert quota(counts, kappa).tolist() == want
        assert quota(counts, torch.tensor(kappa)).tolist() == want  # float32 loses nothing


def brute_force_top(quality: list[float], k: int, ties: str) -> list[float]:
    """K whole rows, or K rows' worth of mass, by sorting in Python."""
    order = sorted(range(len(quality)), key=lambda i: (-quality[i], i))
    nu = quality[order[k - 1]]
    if ties == "first":
        return [1.0 if i in order[:k] else 0.0 for i in range(len(quality))]
    above = sum(q > nu for q in quality)
    share = (k - above) / quality.count(nu)
    return [1.0 if q > nu else share if q == nu else 0.0 for q in quality]


@given(quality=qualities, kappa=kappas, ties=st.sampled_from(["first", "fraction"]))
def test_select_top_equals_sorting_in_python(quality, kappa, ties):
    r = torch.tensor(quality)
    k = int(quota(len(quality), kappa))
    want = brute_force_top(quality, k, ties)
    top = select_top(r, kappa, ties=ties)
    assert top.mass.tolist() == pytest.approx(want, abs=1e-6)
    assert top.quota == k
    kept = sorted(quality, reverse=True)[:k]
    assert top.kept_mean.item() == pytest.approx(sum(kept) / k, abs=1e-5)
    std = torch.tensor(kept, dtype=torch.float64).std().item() if k > 1 else 0.0
    assert top.kept_std.item() == pytest.approx(std, abs=1e-5)


@given(quality=qualities, kappa=kappas, ties=st.sampled_from(["first", "fraction"]), data=st.data())
def test_groups_equal_a_selection_for_each_group(quality, kappa, ties, data):
    n = len(quality)
    group = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    r = torch.tensor(quality)
    top = select_top(r, kappa, mask=mask, ties=ties, group=group * 1_000_003)
    total = 0
    for g in group.unique():
        rows = group == g
        alone = select_top(r[rows], kappa, mask=mask[rows], ties=ties)
        torch.testing.assert_close(top.mass[rows], alone.mass)
        if mask[rows].any():
            assert (top.threshold[rows] == alone.threshold).all()
        total += int(alone.quota)
    assert top.quota == total


def test_the_path_without_reads_selects_the_same():
    r = torch.randint(0, 50, (333,)).float()
    for kappa in (0.05, 0.31, 1.0):
        for ties in ("first", "fraction"):
            fast = select_top(r, kappa, ties=ties)
            general = select_top(r, kappa, ties=ties, mask=torch.ones(333, dtype=torch.bool))
            for got, want in zip(fast, general, strict=True):
                torch.testing.assert_close(got, want)


def test_weighted_moments_count_copies():
    values, copies = torch.randn(50, dtype=torch.float64), torch.randint(0, 4, (50,))
    repeated = values.repeat_interleave(copies)
    mean, std = weighted_moments(values, copies)
    torch.testing.assert_close(mean, repeated.mean())
    torch.testing.assert_close(std, repeated.std())


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_of_float32_survive_a_large_offset(offset):
    r = (torch.rand(10_000, dtype=torch.float64) + offset).float()
    top = select_top(r, 0.25)
    exact = r.double().topk(2500).values.std().item()
    assert top.kept_std.item() == pytest.approx(exact, rel=2e-3)


def test_kappa_follows_the_algorithm_box():
    kappa = torch.tensor(0.5)
    spread, tight = torch.tensor(0.6), torch.tensor(0.4)
    one = torch.tensor(1.0)
    assert kappa_step(kappa, tight, one).item() == pytest.approx(0.51)
    assert kappa_step(kappa, spread, one).item() == pytest.approx(0.49)
    assert kappa_step(torch.tensor(0.5), torch.tensor(0.5), one).item() == pytest.approx(0.49)
    assert kappa_step(torch.tensor(0.995), tight, one).item() == 1.0
    assert kappa_step(torch.tensor(0.0501), spread, one).item() == pytest.approx(0.05)


def test_kappa_settles_where_the_ratio_is_met():
    # For R uniform on [0, 1] the top kappa is uniform on [1 - kappa, 1]: its spread is kappa times
    # the batch's, so the controller must settle at kappa = target_ratio.
    r = torch.linspace(0, 1, 10_001)
    controller = AdaptiveKappa(initial=0.9, target_ratio=0.3)
    kappa = torch.tensor(controller.initial)
    for _ in range(200):
        top = select_top(r, kappa)
        kappa = controller.step(kappa, top.kept_std, top.batch_std)
    assert kappa.item() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("kappa", [0.0, -0.1, 1.01, math.nan])
def test_kappa_outside_its_range_is_named(kappa):
    with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\], got"):
        optimistic_dro_weights(torch.zeros(3), kappa)


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="ties must be 'first' or 'fraction', got 'last'"):
        select_top(torch.zeros(3), 0.5, ties="last")
    with pytest.raises(ValueError, match=r"quality \(3,\), mask \(2,\)"):
        select_top(torch.zeros(3), 0.5, mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="initial must lie within bounds"):
        AdaptiveKappa(initial=0.01)
    with pytest.raises(ValueError, match="up >= 1"):
        AdaptiveKappa(up=0.9)
    with pytest.raises(ValueError, match="target_ratio"):
        AdaptiveKappa(target_ratio=0.0)


def test_selection_compiles_without_a_graph_break_and_agrees():
    r = torch.randint(0, 20, (64,)).float()
    group = torch.randint(0, 3, (64,))

    def run(r, kappa, group):
        plain = select_top(r, kappa)
        grouped = select_top(r, kappa, group=group, ties="first")
        return plain.mass, plain.kept_std, grouped.mass, optimistic_dro_weights(r, kappa)

    kappa = torch.tensor(0.3)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for got, want in zip(compiled(r, kappa, group), run(r, kappa, group), strict=True):
        torch.testing.assert_close(got, want)


@settings(deadline=None)
@given(quality=qualities, kappa=kappas)
def test_best_rows_are_those_with_mass_unless_they_share_their_places(quality, kappa):
    r = torch.tensor(quality)
    top, best = select_top(r, kappa), best_rows(r, kappa)
    shared = bool(((top.mass > 0) & (top.mass < 1)).any())
    assert (best is None) == (shared or int(top.quota) == len(quality))
    if best is not None:
        assert set(best.rows.tolist()) == set(top.mass.nonzero().squeeze(-1).tolist())
        assert best.quality.tolist() == sorted(r[top.mass > 0].tolist(), reverse=True)
        assert (best.quota, best.batch) == (int(top.quota), len(quality))
        assert best.quality[-1] == top.threshold
        for found, want in zip(best[-3:], top[-3:], strict=True):
            torch.testing.assert_close(found, want)


@settings(deadline=None)
@given(quality=qualities, kappa=kappas)
def test_best_rows_always_hold_all_rows_above_the_threshold(quality, kappa):
    r = torch.tensor(quality)
    top, best = select_top(r, kappa), best_rows(r, kappa, shared_places=False)
    if best is None:
        assert int(top.quota) == len(quality)
        return
    assert len(best.rows) == int(top.quota)
    above = (r > top.threshold).nonzero().squeeze(-1).tolist()
    assert set(best.rows[: len(above)].tolist()) == set(above)
    assert torch.equal(r[best.rows], best.quality)
