"""What CatalogueCategorical takes: types, strides and transforms; and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributions import kl_divergence

from tests.distributions.dense_catalogue import D, V, dense, gradients, parameters
from torchrl_drpo.distributions import CatalogueCategorical


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    given = [x.detach().to(dtype) for x in parameters(6)]
    exact = dense(*(x.double() for x in given), 1.0)
    action = exact.sample()
    policy = CatalogueCategorical(*given)
    found = policy.log_prob(action)
    assert found.dtype == policy.entropy().dtype == policy.topk(2).values.dtype == torch.float32
    # The inputs are exact in double, so float32's own error is all that may be left.
    torch.testing.assert_close(found.double(), exact.log_prob(action), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(policy.entropy().double(), exact.entropy(), rtol=1e-5, atol=1e-5)


def test_autocast_computes_in_its_type():
    hidden, items, _ = (x.detach().float() for x in parameters(6))
    half = hidden.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        policy = CatalogueCategorical(half, items)
    assert policy.items.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="hidden and items must be floating and of one type"):
        CatalogueCategorical(half, items)


def test_autocast_costs_no_precision():
    given = [x.detach().float() for x in parameters(6)]
    policy, other = CatalogueCategorical(*given), CatalogueCategorical(given[0], -given[1])
    action = torch.tensor([0, 3, 22, 7, 7, 1])
    for question in (
        lambda: policy.log_prob(action),
        policy.entropy,
        lambda: kl_divergence(policy, other),
        lambda: policy.logits,
        lambda: policy.topk(3).values,
    ):
        exact = question()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(question(), exact)


def test_copies_are_independent_and_items_are_looked_up():
    hidden, items, _ = (x.detach() for x in parameters(3))
    policy = CatalogueCategorical(hidden, items)
    copied, before = copy.deepcopy(policy), policy.entropy()
    items.zero_()
    assert not torch.allclose(policy.entropy(), before)
    torch.testing.assert_close(copied.entropy(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 4)}, "of one width D"),
        ({"hidden": torch.zeros(2, 0), "items": torch.zeros(V, 0)}, "of one width D above 0"),
        ({"items": torch.zeros(0, D)}, "the catalogue is empty"),
        ({"items": torch.zeros(V, D, dtype=torch.float64)}, "of one type"),
        ({"bias": torch.zeros(V - 1)}, "one entry an item"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": float("nan")}, "above 0"),
        ({"temperature": torch.ones(())}, "learned temperature multiplies hidden"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        CatalogueCategorical(**{"hidden": torch.zeros(2, D), "items": torch.zeros(V, D), **change})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.tensor([0, V]), rf"must lie in \[0, {V}\) but row 1 holds {V}"),
        (torch.tensor([[0, 0], [0, -1]]), r"row \(1, 1\) holds -1"),
        (torch.tensor([0.0, 1.0]), "integer item indices, got torch.float32"),
        (torch.zeros(3, dtype=torch.long), "do not fit the batch shape"),
        (3, "integer item indices, got int"),
    ],
)
def test_bad_actions_are_named(action, message):
    policy = CatalogueCategorical(torch.zeros(2, D), torch.zeros(V, D))
    with pytest.raises(ValueError, match=message):
        policy.log_prob(action)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_actions_of_any_integer_type(dtype):
    policy = CatalogueCategorical(*parameters(3))
    action = torch.tensor([0, 5, 22])
    torch.testing.assert_close(policy.log_prob(action.to(dtype)), policy.log_prob(action))


def test_strided_actions_and_biases_are_fine():
    hidden, items, bias = (x.detach() for x in parameters(3))
    wide = torch.stack([bias, bias], 1)
    action = torch.tensor([[0, 9], [5, 9], [22, 9]])[:, 0]
    expected = dense(hidden, items, bias, 1.0).log_prob(action)
    policy = CatalogueCategorical(hidden, items, wide[:, 0])
    torch.testing.assert_close(policy.log_prob(action), expected)
    for kind in (torch.int32, torch.int64):
        leading = policy.leading_log_prob(action.to(kind), torch.tensor(2))
        torch.testing.assert_close(leading, torch.where(torch.arange(3) < 2, expected, 0))
        narrow = action.to(kind).repeat_interleave(2)[::2]
        loss = policy.drpo_loss(narrow, torch.arange(3.0), 1.0, weighting="uniform").loss
        torch.testing.assert_close(loss, -expected.mean())


def test_transposed_parameters_are_fine():
    hidden, items = torch.randn(D, 3).T, torch.randn(D, V).T
    action = torch.tensor([0, 5, 22])
    expected = dense(hidden, items, None, 1.0).log_prob(action)
    torch.testing.assert_close(CatalogueCategorical(hidden, items).log_prob(action), expected)


@pytest.mark.parametrize(
    "question",
    [
        lambda d: d.log_prob(torch.arange(6)),
        lambda d: d.log_prob(torch.arange(12).view(2, 6)),
        lambda d: d.entropy(),
        lambda d: d.mode,
    ],
    ids=["log_prob", "several", "entropy", "mode"],
)
def test_whole_graphs_compile_and_equal_eager(question):
    given = parameters(6)

    def answer(*given):
        return question(CatalogueCategorical(*given, temperature=0.7))

    compiled = torch.compile(answer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), answer(*given))
    if question(CatalogueCategorical(*given)).requires_grad:
        found, wanted = (gradients(f(*given), given) for f in (compiled, answer))
        torch.testing.assert_close(found, wanted)


def test_an_ensemble_of_policies_is_one_vmap():
    hidden, items, bias = torch.randn(3, 6, D), torch.randn(3, V, D), torch.randn(3, V)
    action = torch.randint(V, (3, 6))

    def score(h, e, b, a):
        return CatalogueCategorical(h, e, b).log_prob(a)

    looped = [score(*member) for member in zip(hidden, items, bias, action, strict=True)]
    torch.testing.assert_close(torch.vmap(score)(hidden, items, bias, action), torch.stack(looped))


@pytest.mark.parametrize("shape", [(2,), (4, 2)])
def test_checks_on_request(shape):
    hidden, items = torch.zeros(2, D), torch.zeros(V, D)
    bad = torch.full(shape, V)
    with pytest.raises(ValueError, match="must lie in"):
        CatalogueCategorical(hidden, items, validate_args=True).log_prob(bad)
    with pytest.raises((ValueError, IndexError)):  # the op still looks, and so does indexing
        CatalogueCategorical(hidden, items, validate_args=False).log_prob(bad)


def test_repr_is_short():
    policy = CatalogueCategorical(torch.zeros(2, D), torch.zeros(V, D))
    assert repr(policy) == (
        "CatalogueCategorical(batch_shape: (2,), items: 23, width: 5, temperature: 1)"
    )
