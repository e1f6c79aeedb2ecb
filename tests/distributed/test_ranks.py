"""Ranks and shards, without a second process."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.distributed.fake import group_of
from torchrl_drpo.distributed.ranks import is_fully_sharded, warn_once, world_size


def test_a_process_alone_is_one_rank():
    assert world_size() == 1
    for size in (1, 3):
        with group_of(size):
            assert world_size() == size
    assert world_size() == 1


def test_only_the_module_that_was_sharded_is_sharded():
    with group_of(2):
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        fully_shard(net[0], mesh=init_device_mesh("cpu", (2,)))
        assert [is_fully_sharded(module) for module in (net, *net)] == [False, True, False]


def test_a_topic_is_told_of_once():
    with group_of(1):
        with pytest.warns(UserWarning, match="first"):
            assert warn_once("a", "first")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not warn_once("a", "second")
        with pytest.warns(UserWarning, match="third"):
            warn_once("b", "third")


def test_a_compiled_graph_takes_them_as_constants():
    def step(x: torch.Tensor) -> torch.Tensor:
        if world_size() > 1:
            warn_once("ranks", "among ranks")
        return x * world_size()

    with group_of(2):
        torch._dynamo.reset()
        compiled = torch.compile(step, fullgraph=True, backend="eager")
        with pytest.warns(UserWarning, match="among ranks"):
            assert compiled(torch.ones(1)) == 2
