"""The reserved names are those that samples and losses use: looked up there, not listed twice."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from torchrl.objectives.common import AUTO_LOSS_MASK_KEYS

import torchrl_drpo
from torchrl_drpo.data import LogSchema, QuantileSampler, RecReplayBuffer, WindowUnit
from torchrl_drpo.data.schema.keys import RESERVED, ROW_KEYS

FULL = LogSchema(
    user="u", item="i", time="t", quality="r", slate="s", position="p", propensity="mu",
    policy="b", context=("c",), features=("f",),
)  # fmt: skip


@pytest.fixture
def log() -> pd.DataFrame:
    return pd.DataFrame({name: [1, 2, 3] for name in "uitrspbcf"}).assign(mu=0.5)


def test_all_that_a_sample_holds_is_reserved(log):
    buffer = RecReplayBuffer.from_pandas(
        log, FULL, next_observation=True, sampler=QuantileSampler(0.5), sample_unit=WindowUnit(2)
    )
    sample = set(buffer.sample(4).keys())
    assert sample <= RESERVED
    assert set(buffer[:].keys()) == ROW_KEYS


@pytest.mark.parametrize(
    "loss",
    [name for name in torchrl_drpo.__all__ if name.endswith("Loss")],
)
def test_all_that_a_loss_reads_is_reserved(loss):
    keys = [entry.default for entry in dataclasses.fields(getattr(torchrl_drpo, loss).default_keys)]
    first = {key if isinstance(key, str) else key[0] for key in keys if key is not None}
    assert first <= RESERVED
    masks = {key if isinstance(key, str) else key[0] for key in AUTO_LOSS_MASK_KEYS}
    assert masks <= RESERVED


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_label_takes_a_reserved_name(name):
    with pytest.raises(ValueError, match=f"labels .*{name}.* collide with sampled keys"):
        FULL.replace(labels=("fine", name))
