"""Seeds of a comparison are independent: none draws what another one draws."""

from __future__ import annotations

from itertools import combinations

import torch

from tests.reproduction.simulator.small_worlds import make_policies, make_worlds
from torchrl_drpo.reproduction.simulator import training


def test_neighbouring_seeds_share_no_draws():
    worlds = make_worlds(range(40, 44))
    # Users of a seed were once the first states of the next one's log.
    states = torch.cat([worlds.log["observation"], worlds.users], 1)
    for a, b in combinations(states.flatten(1), 2):
        assert not torch.isin(a, b).any()
    for name in ("action", "reward"):
        first, *others = worlds.log[name].flatten(1)
        assert not any(torch.equal(first, other) for other in others)
    rows = training._Rows(worlds, 64).draw(0)["row"]
    weights = make_policies(worlds).parameters["w1"].detach().flatten(1)
    for a, b in combinations(range(4), 2):
        assert (rows[a] == rows[b]).float().mean() < 0.1
        assert torch.isin(weights[a], weights[b]).float().mean() < 0.01  # of 24 bits each
