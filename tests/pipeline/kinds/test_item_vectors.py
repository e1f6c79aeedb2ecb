"""Item vectors found in a log, against a dense decomposition."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.kinds import item_vectors as module
from torchrl_drpo.pipeline.kinds.item_vectors import factorised_vectors, item_vectors


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


def make_data(vectors: torch.Tensor | None, user: torch.Tensor | None = None, items: int = 3):
    """The parts of a log that its item vectors are made of."""
    train = SimpleNamespace(column=lambda name: {"user": user, "action": item}[name])
    item = None if user is None else torch.arange(len(user)) % items
    log = SimpleNamespace(
        item_embeddings=vectors,
        schema=SimpleNamespace(user=None if user is None else "user"),
        users=range(0 if user is None else int(user.max()) + 1),
        split=lambda part: train,
    )
    count = items if vectors is None else len(vectors)
    return SimpleNamespace(
        log=log, num_items=count, items=Catalogue([f"v{row}" for row in range(count)])
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_vector_that_is_not_finite_is_named_by_its_raw_id(value: float) -> None:
    vectors = torch.randn(9, 5)
    vectors[4, 1] = vectors[7, 0] = value
    message = rf"vector of item 'v4' \(item table\) must be finite but is \[.*{value}.*\] \(2 such"
    with pytest.raises(ValueError, match=message):
        item_vectors(make_data(vectors), 4)


def test_a_complete_item_table_is_not_copied() -> None:
    vectors = torch.randn(9, 5)
    found = item_vectors(make_data(vectors), 4)
    assert found.vectors.data_ptr() == vectors.data_ptr()
    assert (found.source, found.unknown) == ("item table", 0)


@pytest.mark.parametrize(("items", "dim"), [(101, 7), (97, 3), (5, 2), (33, 1)])
def test_random_directions_are_those_of_a_single_draw(
    items: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of the blocks that they are drawn in: vectors are the same everywhere."""
    monkeypatch.setattr(module, "_ITEMS_AT_A_TIME", 16)
    vectors = torch.randn(items, dim)
    missing = torch.arange(items) % 3 == 1
    vectors[missing] = 0.0
    before = vectors.clone()
    found = item_vectors(make_data(vectors), 4, seed=6)
    single = torch.randn(items, dim, generator=torch.Generator().manual_seed(6))
    assert torch.equal(found.vectors, torch.where(missing.unsqueeze(-1), single, before))
    assert torch.equal(vectors, before)  # the log's own
    assert found.unknown == int(missing.sum())


def test_users_who_were_all_shown_the_same_tell_no_items_apart() -> None:
    for users, items in ((30, 12), (400, 100)):
        user = torch.arange(users).repeat_interleave(items)
        with pytest.raises(ValueError, match="all users were shown the same items"):
            item_vectors(make_data(None, user, items), 8)
    with pytest.raises(ValueError, match="does the item table's id column hold the ids"):
        item_vectors(make_data(torch.zeros(4, 2)), 8)
