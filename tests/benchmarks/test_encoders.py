"""What a training step costs when all places of sequences are trained in one pass of the encoder.

The same rows, read one by one with a history each, and as whole sequences: sampling, forward and
backward of BC, 64 wide. Both ways run in turn; ``extra_info["cheaper"]`` is the ratio of their
least processor times. Run with

    OMP_NUM_THREADS=1 pytest -m benchmark_only tests/benchmarks/test_encoders.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from torchrl_drpo import BehaviorCloningLoss, LogSchema, RecReplayBuffer
from torchrl_drpo.objectives import AllPlaces
from torchrl_drpo.policies import EncoderConfig, make_catalogue_actor

ITEMS, STEPS = 1_000, 5


def sequences_of(length: int, rows: int) -> RecReplayBuffer:
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(rows)
    item = torch.randint(ITEMS, (rows,), generator=generator)
    frame = pd.DataFrame({"u": number // length, "i": item, "t": number, "y": 1.0})
    schema = LogSchema(user="u", item="i", time="t", quality="y")
    return RecReplayBuffer.from_pandas(frame, schema, history=length)


def seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


@pytest.mark.benchmark_only
@pytest.mark.parametrize("length", [10, 50])
@pytest.mark.parametrize("kind", ["pooling", "gru", "transformer"])
def test_all_places_at_once(benchmark, kind: str, length: int) -> None:
    buffer = sequences_of(length, 2_000)
    actor = make_catalogue_actor(
        buffer.num_items, dim=64, history=length, encoder=EncoderConfig(kind)
    )
    one, all_places = BehaviorCloningLoss(actor), AllPlaces(BehaviorCloningLoss, actor)
    pieces, every = buffer.sequences(), torch.arange(len(buffer))

    def together() -> None:
        all_places(pieces[:])["loss_actor"].backward()

    def one_by_one() -> None:
        one(buffer[every])["loss_actor"].backward()

    together()
    one_by_one()
    least = [min(seconds(step) for _ in range(STEPS)) for step in (together, one_by_one)]
    benchmark.extra_info["cheaper"] = round(least[1] / least[0], 2)
    benchmark.pedantic(together, rounds=1)
