"""Methods: which coincide, who attracts and who repels, and that every one trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo import CRRLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.pipeline.reward_model.log_reward import reward_columns
from torchrl_drpo.reproduction.kuairand.methods import AT_SERVING, METHODS, PATHS, label, method
from torchrl_drpo.reproduction.kuairand.policy import make_actor
from torchrl_drpo.rewards import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module


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


def _critic() -> CatalogueReward:
    """Two members that were never fitted: what they say is arbitrary, and differs by item."""
    torch.manual_seed(7)
    parts = [two_tower_module(9, dim=4, history=2, context_sizes=(3,)) for _ in range(2)]
    return CatalogueReward([StandardisedReward(part) for part in parts])


def _gradient(make: Any, batch: TensorDict, context: tuple[int, ...] = ()) -> Tensor:
    torch.manual_seed(0)
    actor = make_actor("float32", "cpu", num_items=9, history=2, context_sizes=(3, *context))
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
    marked = lambda name, value: method(name).transform(value, 0)(batch.clone())  # noqa: E731
    hated = marked("top quarter + hated", 1.0)["dislike"]
    assert hated.nonzero().flatten().tolist() == [5]
    signs = marked("top quarter + worst, GBPO", 7.0)["advantage"]
    expected = [1.0 if q >= 0.75 else -7.0 if q <= 0.25 else 0.0 for q in quality.tolist()]
    assert signs.tolist() == expected
    scaled = marked("GBPO", 3.0)["advantage"]
    plain = quality - quality.mean()
    torch.testing.assert_close(scaled, torch.where(plain < 0, 3 * plain, plain))


@pytest.mark.parametrize("name", [m.name for m in METHODS])
def test_every_method_trains_at_every_strength(name: str) -> None:
    chosen = method(name)
    for value in chosen.values:
        batch = _batch()
        if chosen.transform is not None:
            batch = chosen.transform(value, 0)(batch)
        if chosen.follows:
            predicted = torch.rand(40, generator=torch.Generator().manual_seed(5))
            batch.update(reward_columns(torch.arange(40) % 2, predicted, 1 - predicted))
        make = lambda actor, v=value: chosen.loss(actor, v, _critic())  # noqa: E731
        gradient = _gradient(make, batch, chosen.context)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_paths_have_one_name_each_and_know_what_needs_the_critic() -> None:
    names = [m.name for m in METHODS if m.plain] + list(AT_SERVING)
    assert sorted(names) == sorted(PATHS)
    assert len(set(names)) == len(names)
    asks = {m.name: [m.asks_critic(value) for value in m.values] for m in METHODS}
    assert asks["BC"] == [True]  # for its tilt
    assert asks["positive-only"] == [True, False]
    assert asks["drpo-q"] == [True, True]
    assert asks["taper"] == [False] * 3
    assert label(("conditioned", 0.5)) == "conditioned, guidance 0.5"


@pytest.mark.parametrize("name", [m.name for m in METHODS if m.served])
def test_one_training_is_served_along_the_whole_knob(name: str) -> None:
    chosen, critic = method(name), _critic()
    torch.manual_seed(0)
    sizes = (3, *chosen.context)
    actor = make_actor("float32", "cpu", num_items=9, history=2, context_sizes=sizes)
    batch = _batch()  # of the log's own columns: what a method adds, it serves without
    found = dict(chosen.policies(actor, chosen.values[0], critic))
    plain = [(name, chosen.values[0])] if chosen.plain else []
    knobs = [(path.name, value) for path in chosen.served for value in path.values]
    assert list(found) == [*plain, *knobs]
    probs = {key: policy.get_dist(batch).probs for key, policy in found.items()}
    assert all(torch.allclose(p.sum(-1), torch.ones(40)) for p in probs.values())
    value = critic.predict_all(batch)
    for path in chosen.served:
        along = [(probs[path.name, each] * value).sum(-1).mean() for each in path.values]
        if path.critic:  # a smaller tau follows the critic more
            assert along == sorted(along)


def test_only_the_first_strength_is_served_otherwise() -> None:
    actor = make_actor("float32", "cpu", num_items=9, history=2, context_sizes=(3,))
    assert dict(method("positive-only").policies(actor, 0.75, None)) == {
        ("positive-only", 0.75): actor
    }
