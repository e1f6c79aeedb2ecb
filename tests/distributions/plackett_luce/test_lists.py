"""Plackett-Luce against its definition, list by list, in float64."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl_drpo_kernels.linear_log_prob import tiles as kernel_tiles

from torchrl_drpo.distributions import CatalogueCategorical, PlackettLuce, _tiles

V, D, N = 7, 4, 3


@pytest.fixture(params=["one tile", "many tiles"])
def tiled(request, monkeypatch):
    """Every sweep in one tile, and in ragged ones of 3 items and a row or two."""
    if request.param == "many tiles":
        monkeypatch.setattr(_tiles, "TILE_ITEMS", 3)
        monkeypatch.setitem(_tiles.TILE_ELEMENTS, "cpu", 6)
        monkeypatch.setattr(kernel_tiles, "TILE_ITEMS", 3)
        monkeypatch.setattr(kernel_tiles, "TILE_ROWS", 2)


def parameters(*, strength: float = 1.0, excluded: bool = False) -> list[Tensor]:
    torch.manual_seed(1)
    hidden = (strength * torch.randn(N, D)).double().requires_grad_()
    items = torch.randn(V, D).double().requires_grad_()
    bias = torch.randn(V).double()
    if excluded:
        bias[2] = bias[5] = -torch.inf
    return [hidden, items, bias.requires_grad_()]


def naive(scores: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Sum over the places of z - logsumexp of all that are left, of one row of scores."""
    left = list(range(len(scores)))
    out = scores.new_zeros(())
    for item in chosen:
        out = out + scores[item] - scores[left].logsumexp(0)
        left.remove(item)
    return out


def all_lists(items: list[int], k: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(items, k))


def both(given: list[Tensor], k: int) -> dict[str, tuple[PlackettLuce, Tensor]]:
    hidden, items, bias = given
    scores = (hidden @ items.T + bias) / 0.7
    policy = CatalogueCategorical(*given, temperature=0.7)
    return {
        "catalogue": (PlackettLuce(policy, k=k), scores),
        "candidates": (PlackettLuce(scores, k=k), scores),
    }


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.usefixtures("tiled")
def test_every_list_has_its_probability_and_they_add_up_to_one(kind, excluded, k):
    slates, scores = both(parameters(excluded=excluded), k)[kind]
    possible = [v for v in range(V) if not (excluded and v in (2, 5))]
    every = all_lists(possible, k)
    value = torch.tensor(every)[:, None].expand(-1, N, -1)
    ours = slates.log_prob(value)
    torch.testing.assert_close(ours.exp().sum(0), torch.ones(N).double())
    some = every[:: max(1, len(every) // 40)]
    for row, chosen in itertools.product(range(N), some):
        theirs = naive(scores[row], chosen)
        torch.testing.assert_close(ours[every.index(chosen), row], theirs, rtol=1e-10, atol=1e-10)
    if excluded:
        wrong = torch.tensor([2, *possible[: k - 1]]).expand(N, -1)
        assert (slates.log_prob(wrong) == -torch.inf).all()


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
@pytest.mark.parametrize("strength", [1.0, 12.0])  # at 12 a few items hold nearly everything
@pytest.mark.usefixtures("tiled")
def test_gradients_are_autograds_of_the_definition(kind, strength):
    given = parameters(strength=strength, excluded=True)
    value = torch.tensor([[0, 3, 6], [6, 4, -1], [1, 0, 3]])
    slates, scores = both(given, 3)[kind]
    value[0] = scores[0].detach().topk(3).indices  # at 12 next to nothing is left
    weight = torch.tensor([1.0, -2.0, 0.5]).double()
    places = slates.place_log_prob(value)
    assert (places[1, 2] == 0) & (places <= 1e-12).all()
    ours = torch.autograd.grad((weight * places.sum(-1)).sum(), given, retain_graph=True)
    lists = [tuple(v for v in row.tolist() if v >= 0) for row in value]
    theirs = sum(w * naive(scores[n], lists[n]) for n, w in enumerate(weight))
    expected = torch.autograd.grad(theirs, given)
    for one, other in zip(ours, expected, strict=True):
        finite = torch.where(other.isnan(), 0.0, other)  # autograd's own, at excluded items
        torch.testing.assert_close(one, finite, rtol=1e-7, atol=1e-9)


def test_float32_keeps_its_digits_where_little_is_left():
    scores = torch.tensor([[60.0, 30.0, 0.0, -1.0, -2.0]])
    value = torch.tensor([[0, 1, 3]])
    exact = naive(scores[0].double(), (0, 1, 3))
    assert exact > -2  # the last place is a choice of three, whatever its share of the whole
    policy = CatalogueCategorical(torch.ones(1, 1), scores.T.contiguous())
    for slates in (PlackettLuce(scores, k=3), PlackettLuce(policy, k=3)):
        torch.testing.assert_close(slates.log_prob(value)[0].double(), exact, rtol=1e-6, atol=0.0)
        whole = slates.expand((1,)).place_log_prob(value)
        assert whole[0, 2].exp() == pytest.approx(math.exp(-1) / (1 + math.exp(-1) + math.exp(-2)))


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
@pytest.mark.parametrize("strength", [1.0, 40.0])
def test_a_whole_catalogue_in_order_leaves_nothing_and_no_nan(kind, strength):
    given = parameters(strength=strength)
    slates, scores = both(given, V)[kind]
    value = torch.stack([torch.randperm(V) for _ in range(N)])
    out = slates.log_prob(value)
    expected = torch.stack([naive(scores[n], tuple(value[n].tolist())) for n in range(N)])
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.sum(), given)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
@pytest.mark.usefixtures("tiled")
def test_draws_follow_log_prob(kind):
    slates, scores = both(parameters(excluded=True), 2)[kind]
    draws = slates.sample((4_000,))
    assert draws.shape == (4_000, N, 2)
    assert not torch.isin(draws, torch.tensor([2, 5])).any()
    assert (draws[..., 0] != draws[..., 1]).all()
    every = all_lists([0, 1, 3, 4, 6], 2)
    for row in range(N):
        counts = Counter(map(tuple, draws[:, row].tolist()))
        expected = [4_000 * naive(scores[row], each).exp().item() for each in every]
        rare = [e < 5 for e in expected]
        seen = [counts[each] for each in every]
        merged = [
            [x for x, r in zip(values, rare, strict=True) if not r]
            + [sum(x for x, r in zip(values, rare, strict=True) if r)]
            for values in (seen, expected)
        ]
        assert chisquare(*(m if merged[1][-1] > 0 else m[:-1] for m in merged)).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
@pytest.mark.usefixtures("tiled")
def test_the_mode_is_the_likeliest_list(kind):
    slates, _ = both(parameters(excluded=True), 3)[kind]
    every = torch.tensor(all_lists([0, 1, 3, 4, 6], 3))
    best = slates.log_prob(every[:, None].expand(-1, N, -1)).argmax(0)
    assert torch.equal(slates.mode, every[best])
    assert torch.equal(slates.deterministic_sample, slates.mode)
    found = slates.topk(4)
    first, _ = both(parameters(excluded=True), 1)[kind]
    torch.testing.assert_close(found.values[:, 2], first.log_prob(found.indices[:, 2:3]))


@pytest.mark.parametrize("kind", ["catalogue", "candidates"])
def test_fewer_items_than_places_end_in_padding(kind):
    given = parameters(excluded=True)
    slates, scores = both(given, 6)[kind]
    for lists in (slates.mode, slates.sample()):
        assert (lists[:, 5] == -1).all()
        assert (lists[:, :5] >= 0).all()
        out = slates.log_prob(lists)
        expected = [naive(scores[n], tuple(lists[n, :5].tolist())) for n in range(N)]
        torch.testing.assert_close(out, torch.stack(expected))


def test_masked_candidates_are_as_if_they_were_not_there():
    scores = torch.randn(2, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True, False], [True] * 6])
    slates, fewer = PlackettLuce(scores, mask, k=3), PlackettLuce(scores[:1, [0, 1, 3, 4]], k=3)
    value, same = torch.tensor([[4, 0, 3], [5, 2, 0]]), torch.tensor([[3, 0, 2]])
    torch.testing.assert_close(slates.log_prob(value)[:1], fewer.log_prob(same))
    assert torch.isin(slates.sample((500,))[:, 0], torch.tensor([0, 1, 3, 4])).all()
    assert slates.log_prob(torch.tensor([[2, 0, 1], [2, 0, 1]]))[0] == -torch.inf


def test_repeats_shorter_lists_and_the_last_place():
    scores = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([[1, 1, 2], [3, -1, -1], [4, 0, -1], [-1, -1, -1]])
    slates, last = PlackettLuce(scores, k=3), PlackettLuce(scores, k=3, places="last")
    out = slates.log_prob(value)
    expected = [naive(scores[n], tuple(v for v in value[n].tolist() if v >= 0)) for n in (1, 2, 3)]
    torch.testing.assert_close(out[1:], torch.stack(expected))
    places = slates.place_log_prob(value)
    assert places[0, 1] == out[0] == -torch.inf
    torch.testing.assert_close(places[0, 0], naive(scores[0], (1,)))
    torch.testing.assert_close(places[0, 2], naive(scores[0], (1, 2)) - naive(scores[0], (1,)))
    torch.testing.assert_close(
        last.log_prob(value)[2], naive(scores[2], (4, 0)) - naive(scores[2], (4,))
    )
    assert slates.choices_of(value).tolist() == [3, 1, 2, 0]
    assert last.choices_of(value).tolist() == [1, 1, 1, 0]
    (gradient,) = torch.autograd.grad(out[1:].sum() + last.log_prob(value)[2], scores)
    assert gradient.isfinite().all()


def test_expanded_and_drawn_shapes():
    slates, scores = both(parameters(), 2)["catalogue"]
    wide = slates.expand((5, N))
    assert (wide.batch_shape, wide.event_shape) == ((5, N), (2,))
    value = wide.sample((4,))
    assert value.shape == (4, 5, N, 2)
    out = wide.log_prob(value)
    again = [slates.log_prob(value[s, b]) for s in range(4) for b in range(5)]
    torch.testing.assert_close(out.reshape(20, N), torch.stack(again))
    torch.testing.assert_close(out[0, 0, 0], naive(scores[0], tuple(value[0, 0, 0].tolist())))
    assert slates.sample((0,)).shape == (0, N, 2)
    assert wide.mode.shape == (5, N, 2)
    with pytest.raises(NotImplementedError, match="estimate it from draws"):
        slates.entropy()


class _Largest(TorchDispatchMode):
    """The most elements that any operation's result has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_a_catalogue_s_scores_never_exist_as_a_whole(monkeypatch):
    monkeypatch.setattr(_tiles, "TILE_ITEMS", 50)
    monkeypatch.setitem(_tiles.TILE_ELEMENTS, "cpu", 400)
    monkeypatch.setattr(kernel_tiles, "TILE_ITEMS", 50)
    monkeypatch.setattr(kernel_tiles, "TILE_ROWS", 8)
    monkeypatch.setattr(kernel_tiles, "WHOLE_BYTES", 0, raising=False)
    hidden, items = 30 * torch.randn(64, 2), torch.randn(4_000, 2)
    slates = PlackettLuce(CatalogueCategorical(hidden, items), k=3)
    largest = _Largest()
    with largest:
        slates.sample()
        best = slates.mode
    assert largest.elements < 64 * 4_000 / 4
    assert best.shape == (64, 3)


def test_what_is_no_list_is_refused():
    scores = torch.randn(2, 4)
    slates = PlackettLuce(scores, k=2)
    for value, message in (
        (torch.tensor([[0, 4], [0, 1]]), r"lie in \[0, 4\).*entry \(0, 1\) holds 4"),
        (torch.tensor([[0, -2], [0, 1]]), "holds -2"),
        (torch.tensor([[0, 1], [-1, 1]]), r"goes on behind it \(list \(1,\)\)"),
        (torch.zeros(2, 2), "must be lists of integer item numbers, got torch.float32"),
        (torch.zeros(2, 3).long(), r"shape \[\*sample, \*\(2,\), 2\], got \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            slates.log_prob(value)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 4\] \(the items\), got 5"):
        PlackettLuce(scores, k=5)
    with pytest.raises(ValueError, match="how many of the 4 items a list has"):
        PlackettLuce(CatalogueCategorical(torch.zeros(1, 2), torch.zeros(4, 2)))
    with pytest.raises(TypeError, match="got list"):
        PlackettLuce([1.0])
    with pytest.raises(ValueError, match="row 1 has no distribution"):
        PlackettLuce(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]])).sample()
    with pytest.raises(ValueError, match="every item is excluded"):
        _ = PlackettLuce(torch.full((1, 3), -torch.inf)).mode


def test_compiled_and_vmapped_code_gives_the_same():
    hidden, items = torch.randn(2, 4, 3), torch.randn(6, 3)
    value = torch.tensor([[0, 1], [2, -1], [3, 3], [5, 4]])

    def listed(rows: Tensor) -> Tensor:
        return PlackettLuce(CatalogueCategorical(rows, items), k=2).log_prob(value)

    expected = torch.stack([listed(rows) for rows in hidden])
    torch.testing.assert_close(torch.vmap(listed)(hidden), expected)
    compiled = torch.compile(listed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(hidden[0]), expected[0])
