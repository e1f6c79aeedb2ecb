"""Streams: no part of a seed draws what another part, or another seed, draws."""

from __future__ import annotations

from itertools import combinations

import torch

from tests.reproduction.simulator.small_worlds import make_policies, make_worlds
from torchrl_drpo.reproduction.simulator import training
from torchrl_drpo.reproduction.simulator.streams import stream, stream_seed

PARTS = ("world", "log", "users", "batches", "policy", "q", "v", "probe", "served")


def test_no_two_parts_of_a_thousand_seeds_start_alike():
    seeds = [stream_seed(seed, part) for seed in range(2_000) for part in PARTS]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)  # what torch's mt19937 reads of it


def test_a_stream_is_repeated_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    drawn = [torch.randn(3, generator=stream(5, "log")) for _ in range(2)]
    assert torch.equal(*drawn)
    assert torch.equal(torch.random.get_rng_state(), before)


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
