from __future__ import annotations

import math

import pytest
import torch

from torchrl_drpo.evaluation.ranking import (
    CatalogueScores,
    ranking_metrics,
    scores_from_logits,
    uniform_log_weights,
    weighted_metrics,
)


def rows(count: int, items: int = 20) -> tuple[CatalogueScores, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, items, generator=generator)
    target = torch.randint(items, (count,), generator=generator)
    return scores_from_logits(logits, target), torch.rand(count, generator=generator)


def test_whole_weights_are_rows_that_repeat() -> None:
    scores, quality = rows(60)
    times = torch.randint(1, 5, (60,), generator=torch.Generator().manual_seed(0))
    again = torch.arange(60).repeat_interleave(times)
    repeated = ranking_metrics(scores.take(again), quality[again], again, ks=(3, 8), top=7)
    found = weighted_metrics(scores, quality, times.double().log() - 3, ks=(3, 8), top=7)
    for name, value in found.items():
        assert value == pytest.approx(repeated[name], rel=1e-6), name
    assert set(repeated) - set(found) == {"gauc_quality"}


def test_equal_propensities_change_nothing() -> None:
    scores, quality = rows(40)
    log_weight = uniform_log_weights(torch.full((40,), -3.0), 20)
    found = weighted_metrics(scores, quality, log_weight, ks=(3,))
    plain = ranking_metrics(scores, quality, torch.arange(40), ks=(3,))
    for name, value in found.items():
        assert value == pytest.approx(plain[name], rel=1e-6, nan_ok=True), name


def test_they_undo_what_the_logger_showed_more_of() -> None:
    generator = torch.Generator().manual_seed(3)
    items, count = 10, 40_000
    shown = torch.softmax(torch.linspace(0, 3, items), 0)
    score = torch.randn(items, generator=generator)
    uniform = (score > score.sort(descending=True).values[3]).double().mean().item()  # of HR@3
    action = torch.multinomial(shown, count, replacement=True, generator=generator)
    better = (score > score[action].unsqueeze(-1)).sum(-1)
    scores = CatalogueScores(torch.zeros(count), better, torch.ones(count).long())
    log_weight = uniform_log_weights(shown[action].log(), items)
    assert log_weight.exp().mean().item() == pytest.approx(1, abs=0.03)
    found = weighted_metrics(scores, torch.ones(count), log_weight, ks=(3,))["hr@3"]
    naive = (better < 3).double().mean().item()
    assert found == pytest.approx(uniform, abs=0.02)
    assert abs(naive - uniform) > 0.1


def test_no_row_to_ask_about_is_no_number_and_bad_weights_are_refused() -> None:
    scores, quality = rows(5)
    found = weighted_metrics(scores, 0.5 + 0 * quality, torch.zeros(5), ks=(3,))
    assert math.isnan(found["hr@3_best"])
    with pytest.raises(ValueError, match="log_weight"):
        weighted_metrics(scores, quality, torch.full((5,), torch.inf))
    with pytest.raises(ValueError, match="log_weight"):
        weighted_metrics(scores, quality, torch.zeros(4))
