"""Methods: which coincide, who attracts and who repels, and that every one trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo import CRRLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.reproduction.kuairand.methods import METHODS, method
from torchrl_drpo.reproduction.kuairand.policy import (
    make_actor,
)


def _batch(rows: int = 40) -> TensorDict:
    generator = torch.Generator().manual_seed(3)
    quality = torch.randperm(rows, generator=generator) / rows
    return TensorDict(
        {
            "observation": {
                "history": torch.randint(9, (rows, 2), generator=generator),
                "context": torch.randint(3, (rows, 1), generator=generator),
            },
            "action": torch.randint(9, (rows,), generator=generator),
            "is_hate": (torch.arange(rows) == 5).to(torch.int8),
            "next": {"reward": quality.unsqueeze(-1)},
        },
        batch_size=[rows],
    )


def _gradient(make: Any, batch: TensorDict) -> Tensor:
    torch.manual_seed(0)
    actor = make_actor("float32", "cpu", num_items=9, history=2, context_sizes=(3,))
    loss = make(actor)
    loss(batch)["loss_actor"].backward()
    return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


def _cosine(a: Any, b: Any, batch: TensorDict) -> float:
    return torch.cosine_similarity(_gradient(a, batch), _gradient(b, batch), dim=0).item()


def test_rules_that_are_trained_once_coincide() -> None:
    batch = _batch()
    half = lambda actor: DRPOLoss(actor, kappa=0.5, weighting="uniform")  # noqa: E731
    assert _cosine(CRRLoss, half, batch) == pytest.approx(1, abs=1e-5)
    linear = lambda actor: DRPOLoss(actor, kappa=0.25)  # noqa: E731
    floor = batch["next", "reward"].sort(dim=0, descending=True).values[9].item()  # of ten kept
    positive = lambda actor: RepulsiveLoss(actor, negative_scale=0.0, baseline=floor)  # noqa: E731
    assert _cosine(linear, positive, batch) == pytest.approx(1, abs=1e-5)


def test_marks_say_who_attracts_and_who_repels() -> None:
    batch = _batch()
    quality = batch["next", "reward"].squeeze(-1)
    hated = method("top quarter + hated").mark(batch.clone(), 1.0)["dislike"]
    assert hated.nonzero().flatten().tolist() == [5]
    assert (method("top quarter + worst, taper").mark(batch.clone(), 1.0)["dislike"]).sum() == 11
    signs = method("top quarter + worst, GBPO").mark(batch.clone(), 7.0)["advantage"]
    expected = [1.0 if q >= 0.75 else -7.0 if q <= 0.25 else 0.0 for q in quality.tolist()]
    assert signs.tolist() == expected
    scaled = method("GBPO").mark(batch.clone(), 3.0)["advantage"]
    plain = quality - quality.mean()
    torch.testing.assert_close(scaled, torch.where(plain < 0, 3 * plain, plain))


@pytest.mark.parametrize("name", [m.name for m in METHODS])
def test_every_method_trains_at_every_strength(name: str) -> None:
    chosen = method(name)
    for value in chosen.values:
        batch = _batch() if chosen.mark is None else chosen.mark(_batch(), value)
        gradient = _gradient(lambda actor, v=value: chosen.loss(actor, v), batch)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
