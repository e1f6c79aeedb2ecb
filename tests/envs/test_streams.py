"""Streams: no part of a seed draws what another part, or another seed, draws."""

from __future__ import annotations

import torch

from torchrl_drpo.envs.streams import stream, stream_seed

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
