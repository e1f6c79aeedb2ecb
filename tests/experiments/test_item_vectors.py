"""Item vectors found in a log, against a dense decomposition."""

from __future__ import annotations

import pytest
import torch

from torchrl_drpo.experiments.item_vectors import factorised_vectors


def make_pairs(users: int = 60, items: int = 30, rows: int = 900, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    user = torch.randint(0, users, (rows,), generator=g)
    popular = torch.rand(items, generator=g).square()
    item = torch.multinomial(popular, rows, replacement=True, generator=g)
    return user, item


def dense_vectors(user: torch.Tensor, item: torch.Tensor, users: int, items: int, dim: int):
    matrix = torch.zeros(users, items, dtype=torch.double)
    matrix[user, item] = 1.0
    share = matrix / matrix.sum()
    row, column = share.sum(1), share.sum(0)
    expected = torch.outer(row, column)
    residual = torch.where(expected > 0, (share - expected) / expected.sqrt(), 0.0)
    _, strength, right = torch.linalg.svd(residual, full_matrices=False)
    return (right.T * strength)[:, :dim]


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_they_are_those_of_a_correspondence_analysis(dim: int) -> None:
    user, item = make_pairs()
    found = factorised_vectors(user, item, num_users=60, num_items=30, dim=dim, seed=3)
    exact = dense_vectors(user, item, 60, 30, dim)
    assert found.shape == (30, dim)
    # Up to signs and turns among equals: what stays is the inner products.
    torch.testing.assert_close((found @ found.T).double(), exact @ exact.T, atol=3e-4, rtol=1e-3)


def test_a_log_that_falls_into_parts_keeps_them_apart() -> None:
    user, item = make_pairs()
    user, item = torch.cat([user, user + 60]), torch.cat([item, item + 30])
    found = factorised_vectors(user, item, num_users=120, num_items=60, dim=5)
    exact = dense_vectors(user, item, 120, 60, 5)
    torch.testing.assert_close((found @ found.T).double(), exact @ exact.T, atol=3e-4, rtol=1e-3)
    seen = torch.bincount(item, minlength=60) > 0
    alike = torch.cosine_similarity(found[:, None], found[None], dim=-1)
    own = alike[:30, :30][seen[:30]][:, seen[:30]]
    other = alike[:30, 30:][seen[:30]][:, seen[30:]]
    assert own.mean() > 0.3 > other.mean()


def test_repeated_rows_count_once_and_items_without_rows_have_no_vector() -> None:
    user, item = make_pairs()
    twice = factorised_vectors(
        torch.cat([user, user]), torch.cat([item, item]), num_users=60, num_items=33, dim=4
    )
    once = factorised_vectors(user, item, num_users=60, num_items=33, dim=4)
    assert torch.equal(twice, once)
    assert not once[30:].any()
    assert once[:30][torch.bincount(item, minlength=30) > 0].abs().amax(-1).min() > 0


def test_the_seed_is_all_that_is_drawn() -> None:
    user, item = make_pairs()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = factorised_vectors(user, item, num_users=60, num_items=30, dim=3, seed=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(
        one, factorised_vectors(user, item, num_users=60, num_items=30, dim=3, seed=8)
    )


def test_narrower_than_asked_where_there_is_no_more_to_find() -> None:
    user, item = make_pairs(users=4, items=3, rows=30)
    assert factorised_vectors(user, item, num_users=4, num_items=3, dim=9).shape == (3, 2)
    with pytest.raises(ValueError, match="at least 2 users and 2 items, got 1 and 3"):
        factorised_vectors(user * 0, item, num_users=1, num_items=3, dim=2)
    with pytest.raises(ValueError, match="dim"):
        factorised_vectors(user, item, num_users=4, num_items=3, dim=0)
