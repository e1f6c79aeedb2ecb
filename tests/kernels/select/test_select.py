"""The selection op against a brute-force oracle in plain Python."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrl_drpo_kernels import Count, Selection, Stat, reference_only, select
from torchrl_drpo_kernels.select.op import _select

WEIGHTINGS = ("uniform", "linear", "exponential")
TIES = ("first", "fraction")
TEMPERATURE = 0.7
RULES = [  # every weighting with every tie rule; keep all, some, one
    (0.1, "uniform", "first"),
    (0.1, "exponential", "fraction"),
    (0.35, "uniform", "fraction"),
    (0.35, "linear", "fraction"),
    (0.0001, "exponential", "first"),
    (1.0, "linear", "first"),
]


def make_quality(kind: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    normal = torch.randn(n, generator=generator)
    if kind == "normal":
        return normal
    if kind == "ties":
        return torch.randint(-3, 4, (n,), generator=generator).float()
    if kind == "constant":
        return torch.full((n,), 0.1)
    if kind == "zeros":
        return torch.where(normal < 0, -0.0, 0.0)
    if kind == "offset":
        return 1e4 + normal
    if kind == "huge":
        return normal * 1e37
    if kind == "nan":
        return torch.full((n,), math.nan)
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-40, -1e-40, 3.0, -3.0, 1.0]
    return torch.tensor(special)[torch.randint(len(special), (n,), generator=generator)]


KINDS = ("normal", "ties", "constant", "zeros", "offset", "huge", "nan", "special")


def oracle(quality: Tensor, mask: Tensor | None, kappa: float, weighting: str, ties: str) -> dict:
    """Sorts Python floats; the quota is rounded in decimal."""
    values = quality.tolist()
    valid = [i for i, r in enumerate(values) if math.isfinite(r)]
    if mask is not None:
        valid = [i for i in valid if mask[i]]
    if not valid:
        return {"rows": [], "weights": [], "quota": 0, "n": 0}
    exact = Decimal(str(kappa)) * len(valid)
    quota = max(1, int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP)))
    kept = sorted((values[i] for i in valid), reverse=True)[:quota]
    nu = kept[-1]
    mean, std = moments(kept)
    batch_mean, batch_std = moments([values[i] for i in valid])
    above = [i for i in valid if values[i] > nu]
    tied = [i for i in valid if values[i] == nu]
    room = quota - len(above)
    share = dict.fromkeys(above, 1.0)
    if weighting != "linear":
        share |= dict.fromkeys(tied[:room], 1.0)
        if ties == "fraction":
            share |= dict.fromkeys(tied, room / len(tied))
    rule = {
        "uniform": lambda r: 1.0,
        "linear": lambda r: (r - nu) / (std + 1e-8),
        "exponential": lambda r: math.exp((r - mean) / TEMPERATURE),
    }[weighting]
    rows = sorted(share)
    return {
        "rows": rows,
        "weights": [rule(values[i]) * share[i] for i in rows],
        "quota": quota,
        "n": len(valid),
        "stats": [nu, mean, std, batch_mean, batch_std],
        "tallies": [len(above), len(tied)],
    }


def moments(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def check_against_oracle(
    chosen: Selection, quality: Tensor, mask: Tensor | None, kappa: float, weighting: str, ties: str
) -> None:
    want = oracle(quality, mask, kappa, weighting, ties)
    n_rows = len(want["rows"])
    assert chosen.n_rows.tolist() == [n_rows]
    assert chosen.quota.item() == want["quota"]
    assert chosen.counts[Count.N_VALID].item() == want["n"]
    assert chosen.index[:n_rows].tolist() == want["rows"]
    assert not chosen.index[n_rows:].any()
    assert not chosen.weight[n_rows:].any()
    expected = torch.tensor(want["weights"], dtype=torch.float64)
    got = chosen.weight[:n_rows].cpu().double()
    torch.testing.assert_close(got, expected, rtol=5e-6, atol=1e-6)
    if not want["n"]:
        assert not chosen.stats[: Stat.NEXT_KAPPA].any()
        return
    assert chosen.counts[Count.N_ABOVE :].tolist() == want["tallies"]
    stats = torch.tensor(want["stats"], dtype=torch.float64)
    assert chosen.threshold.item() == want["stats"][0]
    torch.testing.assert_close(chosen.stats[:5].cpu().double(), stats, rtol=2e-6, atol=1e-6)
    squares = expected.square().sum()
    ess = expected.sum() ** 2 / squares if squares > 0 else 0.0
    assert chosen.stats[Stat.EFFECTIVE_SAMPLE_SIZE].item() == pytest.approx(float(ess), rel=1e-5)


def safe_weighting(kind: str, weighting: str) -> bool:
    return not (kind == "huge" and weighting == "exponential")  # exp overflows by definition


@pytest.mark.parametrize(
    ("kind", "n"), [("normal", 1), ("huge", 1), ("nan", 1), *((kind, 320) for kind in KINDS)]
)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_every_rule_equals_brute_force(kind, masked, n, device):
    quality = make_quality(kind, n)
    mask = torch.rand(n) < 0.6 if masked else None
    there = quality.to(device), None if mask is None else mask.to(device)
    for kappa, weighting, ties in RULES:
        if safe_weighting(kind, weighting):
            chosen = select(*there, kappa, weighting=weighting, ties=ties, temperature=TEMPERATURE)
            check_against_oracle(chosen, quality, mask, kappa, weighting, ties)


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("programs", [1, 4])
def test_tiles_and_programs_join_without_a_seam(kind, programs):
    from torchrl_drpo_kernels.select import kernel, many_programs
    from torchrl_drpo_kernels.select.rule import Rule

    quality = make_quality(kind, 1501)
    mask = torch.rand(1501) < 0.6
    # 6 tiles: all in one program, or 2 each in 3 programs.
    for weighting, ties in [("linear", "first"), ("uniform", "first"), ("exponential", "fraction")]:
        if safe_weighting(kind, weighting):
            rule = Rule(weighting, ties, TEMPERATURE)
            batch = quality, mask, torch.tensor([0.3]), rule
            if programs == 1:
                chosen = kernel.select_at_once(*batch, tile=256)
            else:
                chosen = many_programs.select(*batch, tile=256, max_programs=programs)
            check_against_oracle(Selection(*chosen), quality, mask, 0.3, weighting, ties)


def test_many_programs_are_chosen_beyond_one_launch(device):
    quality = torch.randint(-50, 50, (40_000,)).float()
    mask = torch.rand(40_000) < 0.9
    chosen = select(quality.to(device), mask.to(device), 0.1, weighting="uniform", ties="first")
    check_against_oracle(chosen, quality, mask, 0.1, "uniform", "first")


@pytest.mark.parametrize("kind", ["normal", "ties", "periodic", "sparse"])
@pytest.mark.parametrize("kappa", [0.001, 0.3, 0.999])
def test_a_sampled_bound_never_changes_the_result(kind, kappa):
    # Beyond 16,384 rows the CPU path bounds the threshold by every n // 4096-th row.
    quality = {
        "normal": lambda: torch.randn(50_000),
        "ties": lambda: torch.randint(3, (50_000,)).float(),
        "periodic": lambda: (torch.arange(50_000) % 12).float(),  # 50,000 // 4,096 is 12
        "sparse": lambda: torch.zeros(50_000).index_fill(0, torch.arange(0, 600, 12), 1.0),
    }[kind]()
    chosen = select(quality, None, kappa, weighting="uniform", ties="first")
    check_against_oracle(chosen, quality, None, kappa, "uniform", "first")


def test_linear_weights_are_plain_excess_without_normalisation(device):
    quality = torch.tensor([4.0, 1.0, 2.5, 0.0], device=device)
    chosen = select(quality, None, 0.75, normalize=False)  # K = 3, nu = 1
    assert chosen.index[:2].tolist() == [0, 2]
    assert chosen.weight.tolist() == [3.0, 1.5, 0.0, 0.0]


@given(n=st.integers(1, 4000), kappa=st.integers(1, 10_000))
def test_quota_rounds_the_decimal_kappa_half_up(n, kappa):
    # kappa = 0.0001 .. 1: in float32, products such as 0.7 * 5 fall just below the half.
    chosen = select(torch.zeros(n), None, torch.tensor([kappa / 10_000]))
    exact = Decimal(kappa) * n / 10_000
    assert chosen.quota.item() == max(1, int(exact.quantize(Decimal(1), ROUND_HALF_UP)))


@given(
    values=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=40),
    kappa=st.floats(0.0625, 1.0, width=16),
)
@settings(max_examples=50)
def test_uniform_mass_is_the_quota_and_solves_the_linear_program(values, kappa):
    # max sum w_i r_i with 0 <= w <= 1 and sum w = K is the sum of the K largest values.
    quality = torch.tensor(values)
    for ties in TIES:
        chosen = select(quality, None, kappa, weighting="uniform", ties=ties)
        assert chosen.weight.sum().item() == pytest.approx(chosen.quota.item(), rel=1e-6)
        value = (chosen.weight * quality[chosen.index.long()]).sum().item()
        best = sum(sorted(values, reverse=True)[: chosen.quota.item()])
        assert value == pytest.approx(best, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("quality", "kappa", "expected"),
    [
        ([1.0, 1.0, 0.0, 0.0], 0.5, 0.5 * 1.02),  # the kept rows are all alike: widen
        ([4.0, 1.0, 0.0, 0.0], 0.5, 0.5 * 0.98),  # they differ more than half as much as all
        ([1.0, 1.0, 0.0, 0.0], 0.3, 0.3 * 1.02),
        ([1.0, 1.0, 1.0, 1.0], 1.0, 0.98),  # nothing differs at all: 0 < 0 is false
        ([4.0, 1.0, 0.0, 0.0], 0.0501, 0.0501 * 1.02),  # one row kept has std 0
        ([9.0, 5.0, 0.0, 0.0], 0.5, 0.5 * 0.98),
    ],
)
def test_controller_takes_the_step_of_the_algorithm_box(quality, kappa, expected, device):
    chosen = select(torch.tensor(quality, device=device), None, kappa)
    assert chosen.next_kappa.tolist() == pytest.approx([expected], rel=1e-6)


def test_controller_stops_at_its_bounds(device):
    alike = torch.tensor([1.0, 1.0, 0.0, 0.0], device=device)
    apart = torch.tensor([4.0, 1.0, 0.0, 0.0], device=device)
    assert select(alike, None, 0.5, bounds=(0.2, 0.505)).next_kappa.item() == pytest.approx(0.505)
    assert select(apart, None, 0.5, bounds=(0.495, 1.0)).next_kappa.item() == pytest.approx(0.495)


def test_masked_rows_may_hold_anything(device):
    quality = torch.randn(64)
    mask = torch.rand(64) < 0.5
    dirty = torch.where(mask, quality, torch.tensor([math.nan, math.inf])[torch.arange(64) % 2])
    clean = select(quality.to(device), mask.to(device), 0.4)
    for a, b in zip(clean, select(dirty.to(device), mask.to(device), 0.4), strict=True):
        assert torch.equal(a, b)


def test_an_empty_batch_selects_nothing(device):
    chosen = select(torch.zeros(0, device=device), None, 0.5)
    assert chosen.index.shape == chosen.weight.shape == (0,)
    assert not chosen.counts.any()


def test_runs_are_bitwise_alike(device):
    quality = make_quality("normal", 33_000).to(device)
    first, second = (select(quality, None, 0.3, weighting="exponential") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_op_is_well_formed(device):
    quality, mask = torch.randn(33, device=device), torch.rand(33, device=device) < 0.5
    kappa = torch.tensor([0.3], device=device)
    options = ("linear", "first", 0.05, True, 1e-8, 0.5, 0.05, 1.0, 1.02, 0.98)
    torch.library.opcheck(_select, (quality, mask, kappa, *options))
    torch.library.opcheck(_select, (quality, None, kappa, *options))


def test_compiled_equals_eager(device):
    def step(quality: Tensor, mask: Tensor, kappa: Tensor) -> tuple[Tensor, ...]:
        chosen = select(quality, mask, kappa, weighting="exponential")
        return chosen.index, chosen.weight, chosen.next_kappa, chosen.quota * 2

    arguments = (
        torch.randn(64, device=device),
        torch.rand(64, device=device) < 0.8,
        torch.tensor([0.3], device=device),
    )
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(*arguments), step(*arguments), strict=True):
        assert torch.equal(a, b)


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
def test_reference_can_be_forced():
    quality = torch.randn(100)
    ours = select(quality, None, 0.3)
    with reference_only():
        theirs = select(quality, None, 0.3)
    assert torch.equal(ours.index, theirs.index)
    torch.testing.assert_close(ours.weight, theirs.weight)


GOOD = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((GOOD.double(), None, 0.5), {}, TypeError, "quality must be float32, got float64"),
        (([1.0], None, 0.5), {}, TypeError, "quality must be a tensor, got list"),
        ((GOOD[:, None], None, 0.5), {}, ValueError, r"quality must have 1 dim.*\(3, 1\)"),
        ((torch.zeros(6)[::2], None, 0.5), {}, ValueError, "quality must be dense"),
        ((GOOD, GOOD, 0.5), {}, TypeError, "mask must be bool, got float32"),
        ((GOOD, GOOD[:2] > 0, 0.5), {}, ValueError, r"mask must have shape \(3,\).*got \(2,\)"),
        ((GOOD, (GOOD > 0).to("meta"), 0.5), {}, ValueError, "mask lies on meta"),
        ((GOOD, None, 0.0), {}, ValueError, r"kappa must lie in \(0, 1\], got 0.0"),
        ((GOOD, None, 1.5), {}, ValueError, r"kappa must lie in \(0, 1\], got 1.5"),
        ((GOOD, None, math.nan), {}, ValueError, r"kappa must lie in \(0, 1\], got nan"),
        ((GOOD, None, torch.tensor([-1.0])), {}, ValueError, r"kappa must lie in \(0, 1\]"),
        ((GOOD, None, torch.tensor([math.nan])), {}, ValueError, r"kappa must lie in \(0, 1\]"),
        ((GOOD, None, torch.tensor([0.5, 0.5])), {}, ValueError, r"kappa must have shape \(1,\)"),
        ((GOOD, None, torch.tensor([1])), {}, TypeError, "kappa must be float32, got int64"),
        ((GOOD, None, "half"), {}, TypeError, "kappa must be a number or .* got str"),
        ((GOOD, None, None), {}, TypeError, "kappa must be a number or .* got NoneType"),
        ((GOOD, None, torch.tensor(0.5)), {}, ValueError, "kappa must have 1 dim"),
        ((GOOD, None, torch.tensor([0.5]).to("meta")), {}, ValueError, "kappa lies on meta"),
        ((torch.empty(2**31, device="meta"), None, 0.5), {}, ValueError, "at most 2147483647 rows"),
        ((GOOD, None, 0.5), {"bounds": (0.1,)}, ValueError, "the smallest and the largest"),
        ((GOOD, None, 0.5), {"weighting": "kl"}, ValueError, "weighting must be one of uniform"),
        ((GOOD, None, 0.5), {"ties": "last"}, ValueError, "ties must be one of first, fraction"),
        ((GOOD, None, 0.5), {"temperature": 0.0}, ValueError, "temperature must be a finite"),
        ((GOOD, None, 0.5), {"eps": -1.0}, ValueError, "eps must be a finite"),
        ((GOOD, None, 0.5), {"bounds": (0.5, 0.2)}, ValueError, "bounds must satisfy"),
    ],
)
def test_bad_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        select(*arguments, **options)
