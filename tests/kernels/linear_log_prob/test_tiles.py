"""The ATen tiles: which scores are kept, and how large tiles are."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import backend, linear_log_prob
from torchrl_drpo_kernels.linear_log_prob import tiles
from torchrl_drpo_kernels.linear_log_prob.problem import Problem

from tests.kernels.linear_log_prob.cases import CASES, make, run


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_that_are_kept_change_nothing(case, monkeypatch):
    given = make(case, torch.device("cpu"))
    results = []
    for budget in (0, 2**30):
        monkeypatch.setattr(tiles, "KEPT_BYTES", budget)
        results.append(run(linear_log_prob, *given))
    for walked, kept in zip(*results, strict=True):
        assert torch.equal(walked, kept)


def test_scores_are_kept_within_the_budget_only(device, monkeypatch):
    if backend(torch.zeros(1, device=device)) != "aten":
        pytest.skip("kernels keep no scores")
    hidden, items, action, *_ = make((9, 70, 16, None, False), torch.device("cpu"))
    for spare, rows in ((0, 9), (-1, 0)):
        monkeypatch.setattr(tiles, "KEPT_BYTES", 9 * 70 * 4 + spare)
        node = linear_log_prob(hidden, items.requires_grad_(), action)[0].grad_fn
        assert node.saved_tensors[-1].shape == (rows, 70)


def test_an_accelerator_gets_fewer_and_larger_tiles():
    with torch.device("meta"):
        hidden, items = torch.empty(5000, 64), torch.empty(20_000, 64)
    found = tiles.Scores(Problem(hidden, items, None, None, None, 1.0))
    shapes = [
        tuple(scores.shape) for e in found.item_tiles() for _, scores, _ in found.row_tiles(*e)
    ]
    assert shapes == [(rows, v) for v in (8192, 8192, 3616) for rows in (4096, 904)]
    assert found.buffer.numel() * 4 == 2**27
