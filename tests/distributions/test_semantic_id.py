"""SemanticIDCategorical against the enumerated product of torch's Categoricals."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from scipy.stats import chisquare
from torch.distributions import Categorical, Independent

from torchrl_drpo.distributions import SemanticIDCategorical

T, C = 3, 4
CODES = torch.tensor(list(itertools.product(range(C), repeat=T)))


def dense(logits):
    return Independent(Categorical(logits=logits, validate_args=False), 1, validate_args=False)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_everything_equals_torchs_independent_categoricals(batch):
    logits = torch.randn(*batch, T, C, dtype=torch.float64, requires_grad=True)
    ours, theirs = SemanticIDCategorical(logits), dense(logits)
    for action in (theirs.sample(), theirs.sample((4,))):
        torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
        tokens = ours.token_log_prob(action)
        torch.testing.assert_close(tokens.sum(-1), theirs.log_prob(action))
        grads = [
            torch.autograd.grad(d.log_prob(action).pow(2).sum(), logits, retain_graph=True)
            for d in (ours, theirs)
        ]
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.logits, theirs.base_dist.logits)
    assert torch.equal(ours.mode, theirs.mode)
    assert torch.equal(ours.deterministic_sample, ours.mode)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.mean.isnan().all()
    assert ours.variance.shape == theirs.variance.shape


def test_empty_batches_and_transposed_logits_are_fine():
    policy = SemanticIDCategorical(torch.randn(0, T, C))
    assert policy.log_prob(policy.sample()).shape == policy.entropy().shape == (0,)
    logits = torch.randn(2, C, T).transpose(1, 2)
    action = torch.randint(C, (2, T))
    torch.testing.assert_close(
        SemanticIDCategorical(logits).log_prob(action), dense(logits).log_prob(action)
    )


def test_probabilities_of_all_codes_add_up_to_one():
    policy = SemanticIDCategorical(torch.randn(2, T, C, dtype=torch.float64))
    every = policy.log_prob(CODES[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(every.logsumexp(0), torch.zeros(2, dtype=torch.float64))
    # The entropy by brute force over all sequences.
    torch.testing.assert_close(-(every.exp() * every).sum(0), policy.entropy())


def test_samples_have_the_right_frequencies():
    policy = SemanticIDCategorical(torch.randn(2, T, C))
    drawn = policy.sample((30_000,))
    names = (drawn * torch.tensor([C * C, C, 1])).sum(-1)
    for row in range(2):
        expected = policy.log_prob(CODES[:, None].expand(-1, 2, -1))[:, row].double().exp()
        counts = names[:, row].bincount(minlength=len(CODES)).double()
        expected = expected / expected.sum() * counts.sum()
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-4


def test_masked_levels_count_for_nothing_whatever_they_hold():
    logits = torch.randn(2, T, C)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = dense(logits[:1, :2])
    broken = logits.clone()
    broken[0, 2] = torch.nan
    broken.requires_grad_()
    policy = SemanticIDCategorical(broken, mask)
    action = torch.tensor([[1, 2, -1], [0, 3, 1]])
    torch.testing.assert_close(policy.log_prob(action)[:1], expected.log_prob(action[:1, :2]))
    torch.testing.assert_close(policy.entropy()[:1], expected.entropy())
    assert policy.token_log_prob(action)[0, 2] == 0
    assert not policy.sample((10,))[:, 0, 2].any()
    assert policy.mode[0, 2] == 0
    grad = torch.autograd.grad(policy.log_prob(action).sum(), broken)[0]
    assert grad.isfinite().all()
    assert not grad[0, 2].any()


def test_excluded_codes_are_never_drawn():
    logits = torch.randn(T, C)
    logits[1, 2:] = -torch.inf
    policy = SemanticIDCategorical(logits)
    assert policy.sample((1000,))[:, 1].max() == 1
    assert policy.entropy().isfinite()


def test_colliding_items_share_their_code_equally():
    codes = torch.tensor([[0, 1, 2], [3, 3, 3], [0, 1, 2], [0, 1, 2]])
    policy = SemanticIDCategorical(torch.randn(5, T, C), codes=codes)
    assert policy.collisions.tolist() == [3, 1, 3, 3]
    items = torch.arange(4)[:, None].expand(4, 5)
    found = policy.item_log_prob(items)
    torch.testing.assert_close(found[0], found[2])
    triple, single = policy.log_prob(codes[0].expand(5, T)), policy.log_prob(codes[1].expand(5, T))
    torch.testing.assert_close(found.exp().sum(0), triple.exp() + single.exp())
    with pytest.raises(ValueError, match="give SemanticIDCategorical the items' codes"):
        SemanticIDCategorical(torch.randn(5, T, C)).item_log_prob(items)


def test_a_real_index_collides_as_its_readme_says(real_logs):
    folder = real_logs / "amazon_semantic_ids"
    index = json.loads((folder / "Industrial_and_Scientific.index.json").read_text())
    codes = torch.tensor([[int(t[1:-1].split("_")[1]) for t in v] for v in index.values()])
    policy = SemanticIDCategorical(torch.randn(2, 3, 256), codes=codes)
    assert int((policy.collisions > 1).sum()) == 31
    total = policy.item_log_prob(torch.arange(len(codes))[:, None].expand(-1, 2)).exp().sum(0)
    assert (total < 1).all()


def test_expand_shares_memory_and_answers_alike():
    logits, mask = torch.randn(3, T, C), torch.rand(3, T) < 0.7
    policy = SemanticIDCategorical(logits, mask, codes=CODES, validate_args=False)
    wide = policy.expand((2, 3))
    action = torch.randint(C, (2, 3, T))
    assert wide._scores.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(wide.log_prob(action), policy.log_prob(action))
    assert wide.sample((5,)).shape == (5, 2, 3, T)
    assert wide._validate_args is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(C)}, r"shape \[\*B, T, C\]"),
        ({"logits": torch.zeros(2, T, C, dtype=torch.long)}, "logits must be floating"),
        ({"mask": torch.ones(2, T)}, "mask must be bool"),
        ({"mask": torch.ones(2, T + 1, dtype=torch.bool)}, "mask must be bool of shape"),
        ({"codes": torch.zeros(7, T + 1, dtype=torch.long)}, "one code a level"),
        ({"codes": torch.full((7, T), C)}, r"codes must lie in \[0, 4\)"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SemanticIDCategorical(**{"logits": torch.zeros(2, T, C), **change})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.tensor([[0, 0, 0], [0, C, 0]]), r"entry \(1, 1\) holds 4"),
        (torch.zeros(2, T), "must be integer codes, got torch.float32"),
        (torch.zeros(2, 1, dtype=torch.long), r"must have shape \[\*sample, \*\(2,\), 3\]"),
        (torch.zeros(5, T, dtype=torch.long), "must have shape"),
        ([0, 1, 2], "must be integer codes, got list"),
    ],
)
def test_bad_actions_are_named(action, message):
    with pytest.raises(ValueError, match=message):
        SemanticIDCategorical(torch.zeros(2, T, C)).log_prob(action)


def test_repr_is_short():
    assert repr(SemanticIDCategorical(torch.zeros(2, T, C))) == (
        "SemanticIDCategorical(batch_shape: (2,), levels: 3, codes: 4)"
    )
