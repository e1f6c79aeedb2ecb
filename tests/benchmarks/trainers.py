"""Steps a second of `OfflineTrainer` and of `DRPOTrainer`, on the same small run.

    python tests/benchmarks/trainers.py

Writes a line a trainer: the median of the rounds, which take turns, and their range. Both runs end
with the same parameters; only the loops around the step differ.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from torchrl_drpo import DRPOLoss, DRPOTrainer, RecReplayBuffer, RecSimEnv, make_gaussian_actor
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import OfflineTrainer

STEPS, ROUNDS = 300, 5


def main() -> None:
    torch.set_num_threads(1)
    rows = RecSimEnv("table").simulate_log(3_000, "extreme", seed=1, propensity=False)
    config = TrainerConfig(steps=STEPS, log_every=50)

    def parts() -> tuple[DRPOLoss, RecReplayBuffer, TrainerConfig]:
        log = RecReplayBuffer.from_tensordict(rows, generator=torch.Generator().manual_seed(0))
        return DRPOLoss(make_gaussian_actor(10, 128)), log, config

    loops: dict[str, Callable[[], Callable[[], object]]] = {
        "OfflineTrainer": lambda: OfflineTrainer(*parts()).run,
        "DRPOTrainer": lambda: DRPOTrainer(*parts()).train,
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS + 1):
        for name, make in loops.items():
            run = make()
            begun = time.process_time()
            run()
            rates[name].append(STEPS / (time.process_time() - begun))
    for name, found in rates.items():
        kept = found[1:]  # the first warms up
        sys.stdout.write(
            f"{name}: {statistics.median(kept):.0f} steps a second of one core's time "
            f"({min(kept):.0f} to {max(kept):.0f})\n"
        )


if __name__ == "__main__":
    main()
