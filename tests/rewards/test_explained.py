"""What a model explains, and its standard error against resampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrl_drpo.rewards.explained import Explained, explained_variance

N, USERS, RESAMPLES = 300, 30, 2_000


def make_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, rewards and users; a user's rewards are alike, which the model knows in part."""
    g = torch.Generator().manual_seed(0)
    user = torch.arange(N) % USERS
    taste = torch.randn(USERS, generator=g)[user]
    reward = taste + torch.randn(N, generator=g)
    predicted = 0.5 * taste + 0.3 * torch.randn(N, generator=g)
    return predicted, reward, user


def shares(predicted: Tensor, reward: Tensor) -> Tensor:
    """Explained variance of resamples, ``[R, n]`` each."""
    return 1 - (predicted - reward).square().mean(-1) / reward.var(-1, correction=0)


def test_the_share_is_one_minus_the_error_over_the_variance():
    predicted, reward, user = make_rows()
    expected = shares(predicted, reward).item()
    for group in (None, user):
        assert explained_variance(predicted, reward, group).share.item() == pytest.approx(expected)


@pytest.mark.parametrize("by_user", [False, True])
def test_the_standard_error_is_the_bootstraps(by_user: bool):
    predicted, reward, user = make_rows()
    g = torch.Generator().manual_seed(1)
    if by_user:
        drawn = torch.randint(USERS, (RESAMPLES, USERS), generator=g)
        own = torch.arange(N).view(-1, USERS).T  # a user's rows
        rows = own[drawn].flatten(1)
    else:
        rows = torch.randint(N, (RESAMPLES, N), generator=g)
    expected = shares(predicted[rows], reward[rows]).std().item()
    found = explained_variance(predicted, reward, user if by_user else None).error.item()
    assert found == pytest.approx(expected, rel=0.1)  # of 2,000 resamples, and of first order


def test_rows_of_a_user_are_fewer_than_they_look():
    predicted, reward, user = (column.repeat(4) for column in make_rows())
    alone, together = (explained_variance(predicted, reward, g).error for g in (None, user))
    assert together > 1.5 * alone
    unchanged = explained_variance(*make_rows()[:2]).error
    assert alone.item() == pytest.approx(unchanged.item() / 2, rel=0.01)


def test_constant_rewards_leave_nothing_to_explain():
    found = explained_variance(torch.rand(5), torch.full((5,), 0.3))
    assert found.share == 0
    assert found.doubtful


@pytest.mark.parametrize(
    ("share", "error", "doubtful"),
    [(0.05, 0.02, False), (0.03, 0.02, True), (-0.01, 0.0, True), (0.05, math.nan, True)],
)
def test_less_than_two_standard_errors_are_doubtful(share: float, error: float, doubtful: bool):
    assert Explained(torch.tensor(share), torch.tensor(error)).doubtful is doubtful


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(4)), r"one shape \[N\].* got \(3,\) and \(4,\)"),
        ((torch.zeros(1), torch.zeros(1)), "N at least 2"),
        ((torch.zeros(3), torch.zeros(3), torch.zeros(2)), r"one group id a row, 3, got \(2,\)"),
    ],
)
def test_rows_that_do_not_match_are_refused(arguments: tuple[Tensor, ...], message: str):
    with pytest.raises(ValueError, match=message):
        explained_variance(*arguments)
