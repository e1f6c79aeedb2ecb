"""A run that cannot learn does not end like one that did."""

from __future__ import annotations

import warnings

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives.common import LossModule

import torchrl_drpo as drpo
from tests.objectives.cases import LOSSES, batch, gaussian_actor, make, run
from torchrl_drpo.objectives._idle import IDLE_STEPS

N = 12
REWARD = ("next", "reward")
#: Losses that learn nothing from rows that are all equally good.
IDLE = (
    "drpo",
    "drpo groups",
    "drpo negatives",
    "repulsive",
    "repulsive taper",
    "positive only",
    "crr without critic",
    "topr",
    "topr reference",
    "bppo",
    "guided",
    "gbpo",
    "gbpo current",
    "ecpo",
)


def train(loss: LossModule, data: TensorDict, steps: int) -> list[str]:
    """What is warned of in so many steps."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(steps):
            run(loss, data)
    return [str(w.message) for w in seen]


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_that_cannot_learn_says_so_once(name: str):
    data = batch(gaussian_actor(), N)
    data[REWARD].fill_(0.7)
    told = train(make(name), data, 2 * IDLE_STEPS)
    assert [name in IDLE] == [len(told) == 1 and f"in {IDLE_STEPS} batches in a row" in told[0]]
    assert name in IDLE or not told
    resting = make(name).eval()
    assert not train(resting, data, 2 * IDLE_STEPS)
    assert not train(make(name, check_inputs=False), data, 2 * IDLE_STEPS)


def test_a_batch_with_something_to_learn_starts_the_count_anew():
    loss, data = make("repulsive"), batch(gaussian_actor(), N)
    flat = data.clone()
    flat[REWARD].fill_(0.7)
    assert not train(loss, flat, IDLE_STEPS - 1)
    assert not train(loss, data, 1)
    assert not train(loss, flat, IDLE_STEPS - 1)
    assert len(train(loss, flat, 1)) == 1


@pytest.mark.parametrize("options", [{}, {"skip_filtered": False}, {"reduction": "none"}])
def test_kept_rows_that_are_all_clicks_weigh_nothing(options: dict):
    data = batch(gaussian_actor(), N)
    data[REWARD] = (torch.arange(N) < 6).float()  # the best quarter are clicks, all of them
    (told,) = train(drpo.DRPOLoss(gaussian_actor(), kappa=0.25, **options), data, IDLE_STEPS)
    assert "weighting='uniform' clones equals alike" in told
