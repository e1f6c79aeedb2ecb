"""CatalogueCategorical against torch's Categorical, which keeps all logits."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl_drpo_kernels.linear_log_prob import tiles as kernel_tiles

from tests.distributions.dense_catalogue import D, V, dense, gradients, parameters
from torchrl_drpo.distributions import CatalogueCategorical, _tiles


@pytest.fixture(params=["one tile", "many tiles"])
def tiled(request, monkeypatch):
    """Every sweep in one tile, and in ragged ones of 7 items and a few rows."""
    if request.param == "many tiles":
        monkeypatch.setattr(_tiles, "TILE_ITEMS", 7)
        monkeypatch.setitem(_tiles.TILE_ELEMENTS, "cpu", 21)
        monkeypatch.setattr(kernel_tiles, "TILE_ITEMS", 7)
        monkeypatch.setattr(kernel_tiles, "TILE_ROWS", 2)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.usefixtures("tiled")
def test_everything_equals_torchs_categorical(batch, bias):
    given = parameters(*batch, bias=bias)
    ours, theirs = CatalogueCategorical(*given, temperature=0.7), dense(*given, 0.7)
    action, many = theirs.sample(), theirs.sample((4,))
    for question in (
        lambda d: d.log_prob(action),
        lambda d: d.log_prob(many),
        lambda d: d.entropy(),
        lambda d: d.perplexity(),
    ):
        torch.testing.assert_close(question(ours), question(theirs))
        ours_grad, theirs_grad = (gradients(question(d), given) for d in (ours, theirs))
        torch.testing.assert_close(ours_grad, theirs_grad)
        theirs = dense(*given, 0.7)  # a graph backs up once
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.probs, theirs.probs)
    assert torch.equal(ours.mode, theirs.mode)
    assert torch.equal(ours.deterministic_sample, theirs.mode)
    assert torch.equal(ours.enumerate_support(), theirs.enumerate_support())
    assert torch.equal(ours.enumerate_support(False), theirs.enumerate_support(False))
    assert ours.mean.isnan().all()
    assert ours.variance.shape == theirs.variance.shape
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_answers_as_on_a_cpu(dtype):
    here = [x.detach().to(dtype) for x in parameters(300, excluded=True)]
    ours = CatalogueCategorical(*(x.to("cuda") for x in here), temperature=0.7)
    theirs = CatalogueCategorical(*here, temperature=0.7)
    action = theirs.sample()
    rounding = {"rtol": 1e-3, "atol": 1e-3}
    for question in (
        lambda d: d.log_prob(action.to(d.hidden.device)),
        lambda d: d.entropy(),
        lambda d: d.topk(5).values,
        lambda d: kl_divergence(d, CatalogueCategorical(d.hidden, -d.items)),
    ):
        torch.testing.assert_close(question(ours).cpu(), question(theirs), **rounding)
    counts = ours.sample((2000,)).cpu()
    assert counts.min() >= 9
    wanted = theirs.probs.mean(0)
    torch.testing.assert_close(
        counts.flatten().bincount(minlength=V) / counts.numel(), wanted, rtol=0.02, atol=0.002
    )


@pytest.mark.usefixtures("tiled")
def test_excluded_items_have_no_probability_and_break_nothing():
    given = parameters(6, excluded=True)
    ours = CatalogueCategorical(*given)
    theirs = Categorical(probs=dense(*given, 1.0).probs)
    allowed = torch.arange(9, 15)
    torch.testing.assert_close(ours.log_prob(allowed), theirs.log_prob(allowed))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert (ours.log_prob(torch.arange(6)) == -torch.inf).all()
    assert ours.sample((2000,)).min() >= 9
    assert (ours.topk(14).indices >= 9).all()
    for value in (ours.log_prob(allowed), ours.entropy()):
        hidden, items, bias = gradients(value, given)
        assert hidden.isfinite().all()
        assert not items[:9].any()
        assert not bias[:9].any()


@pytest.mark.usefixtures("tiled")
def test_topk_equals_a_full_sort():
    given = parameters(6)
    found = CatalogueCategorical(*given).topk(11)
    expected = dense(*given, 1.0).logits.sort(descending=True)
    torch.testing.assert_close(found.values, expected.values[:, :11].detach())
    assert torch.equal(found.indices, expected.indices[:, :11])
    with pytest.raises(ValueError, match=r"k must lie in \[1, 23\]"):
        CatalogueCategorical(*given).topk(24)


@pytest.mark.usefixtures("tiled")
def test_samples_have_the_right_frequencies():
    given = parameters(2)
    policy = CatalogueCategorical(*given, temperature=2.0)
    drawn = policy.sample((40_000,))
    for row in range(2):
        counts = drawn[:, row].bincount(minlength=V).double()
        expected = dense(*given, 2.0).probs[row].detach() * len(drawn)
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_samples_of_different_rows_and_draws_are_independent():
    policy = CatalogueCategorical(torch.zeros(2, D), torch.randn(4, D))
    first, second = policy.sample((20_000,)).T
    joint = (first * 4 + second).bincount(minlength=16)
    assert chisquare(joint.numpy()).pvalue > 1e-4
    pairs = (first[:-1] * 4 + first[1:]).bincount(minlength=16)
    assert chisquare(pairs.numpy()).pvalue > 1e-4


@pytest.mark.usefixtures("tiled")
def test_probabilities_add_up_to_one():
    policy = CatalogueCategorical(*parameters(6))
    every = policy.log_prob(policy.enumerate_support())
    torch.testing.assert_close(every.logsumexp(0), torch.zeros(6, dtype=torch.float64))


@pytest.mark.usefixtures("tiled")
def test_kl_divergence_equals_torchs_and_vanishes_at_itself():
    one, two = parameters(2, 3), parameters(2, 3, bias=False)
    ours = kl_divergence(CatalogueCategorical(*one), CatalogueCategorical(*two, temperature=0.6))
    theirs = kl_divergence(dense(*one, 1.0), dense(*two, 0.6))
    torch.testing.assert_close(ours, theirs)
    given = [*one, *two[:2]]
    torch.testing.assert_close(gradients(ours, given), gradients(theirs, given))
    policy = CatalogueCategorical(*one)
    torch.testing.assert_close(kl_divergence(policy, policy), torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match="got 23 and 2 items"):
        kl_divergence(policy, CatalogueCategorical(one[0], one[1][:2]))


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize(
    "question",
    [
        lambda d: d.log_prob(torch.zeros(400, dtype=torch.long)).sum().backward(),
        lambda d: d.entropy().sum().backward(),
        lambda d: kl_divergence(d, d.expand((400,))).sum().backward(),
        lambda d: d.sample(),
        lambda d: d.topk(10),
        lambda d: d.mode,
    ],
    ids=["log_prob", "entropy", "kl", "sample", "topk", "mode"],
)
def test_no_tensor_of_rows_times_items_exists(question):
    hidden, items = torch.randn(400, 8, requires_grad=True), torch.randn(30_000, 8)
    policy = CatalogueCategorical(hidden, items.requires_grad_())
    with _Largest() as seen:
        question(policy)
    assert 0 < seen.numel <= 2**20 < 400 * 30_000
    with _Largest() as seen:
        assert policy.logits.isfinite().all()
    assert seen.numel == 400 * 30_000  # the measurement sees what it should


@pytest.mark.usefixtures("tiled")
def test_expand_shares_memory_and_answers_alike():
    hidden, items, bias = parameters(3)
    policy = CatalogueCategorical(hidden, items, bias, temperature=0.5, validate_args=False)
    wide = policy.expand((4, 3))
    action = torch.randint(V, (4, 3))
    assert wide.batch_shape == (4, 3)
    assert wide.hidden.data_ptr() == hidden.data_ptr()
    torch.testing.assert_close(wide.log_prob(action), policy.log_prob(action))
    torch.testing.assert_close(wide.entropy()[2], policy.entropy())
    assert wide.sample((2,)).shape == (2, 4, 3)
    assert wide._validate_args is False
