"""Filtering in the sampler against filtering in the batch, measured on the simulator.

    python tests/benchmarks/data_quantile.py --out results/data

The same objective, kappa = .1, on the table setting's extreme scenario: uniform batches of 320 of
which the loss keeps 32, against a QuantileSampler whose rows are all kept. Useful samples are the
rows that the loss keeps. Differences are paired by seed. A sampler that fills the whole batch with
useful rows needs a tenth of the steps to see as many; with as many steps it sees 300 rows 5,000
times over, and learns them by heart.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

KAPPA, STEPS = 0.1, 5_000


@dataclass(frozen=True)
class Arm:
    """One way to filter: rows read a step, who filters, and the share of the steps taken."""

    name: str
    batch: int
    in_sampler: bool
    share: float = 1.0
    seeds: int | None = None  # fewer seeds where the answer is plain and the run long

    @property
    def useful(self) -> int:
        """Rows a step that the loss keeps."""
        return self.batch if self.in_sampler else round(KAPPA * self.batch)


ARMS = (
    Arm("in the batch, 320 read", 320, False),
    Arm("in the sampler, 320 read, a tenth of the steps", 320, True, 0.1),
    Arm("in the sampler, 32 read", 32, True),
    Arm("in the sampler, 320 read, as many steps", 320, True, seeds=3),
)


def run(arm: Arm, seed: int, weighting: str, steps: int) -> dict[str, float]:
    """Trains one arm; the late-window retrieved reward and the seconds of its training steps."""
    from torchrl.data import RandomSampler

    from torchrl_drpo import DRPOLoss, RecSimEnv, make_gaussian_actor
    from torchrl_drpo.data import QuantileSampler, RecReplayBuffer
    from torchrl_drpo.envs.streams import stream, stream_seed
    from torchrl_drpo.evaluation.simulator import evaluate_policy

    env = RecSimEnv("table", seed=seed)
    log = env.simulate_log(3_000, "extreme", seed=stream_seed(seed, "log"), propensity=False)
    sampler = QuantileSampler(KAPPA) if arm.in_sampler else RandomSampler()
    buffer = RecReplayBuffer.from_tensordict(
        log.select("observation", "action", ("next", "reward")), batch_size=arm.batch,
        sampler=sampler, generator=stream(seed, "batches"),
    )  # fmt: skip
    torch.manual_seed(stream_seed(seed, "policy"))
    actor = make_gaussian_actor(env.setting.state_dim, env.setting.action_dim)
    loss = DRPOLoss(actor, kappa=1.0 if arm.in_sampler else KAPPA, weighting=weighting)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    users = env.draw_states(1_024, seed=stream_seed(seed, "users"))
    interest = env.world.interest(users)
    seconds, late, steps = 0.0, [], round(arm.share * steps)
    for step in range(1, steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss(buffer.sample())["loss_actor"].backward()
        optimizer.step()
        seconds += time.perf_counter() - began
        if step % max(1, steps // 20) == 0 and step > 0.8 * steps:
            values = evaluate_policy(actor, users, interest, env.items, delta=env.setting.delta)
            late.append(values["retrieved_reward"])
    return {"reward": sum(late) / len(late), "seconds": seconds}


def main() -> None:
    from torchrl_drpo.evaluation.statistics import mean_interval

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--weighting", default="uniform", choices=["uniform", "linear"])
    parser.add_argument("--out", type=Path, default=Path("results/data"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"quantile_{arguments.weighting}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    runs = known.get("runs", {}) if known.get("steps") == arguments.steps else {}
    for seed in range(arguments.seeds):
        for arm in ARMS:  # side by side, so that a busy machine slows all alike
            mine = runs.setdefault(arm.name, [])
            wanted = seed < (arm.seeds or arguments.seeds)
            if wanted and len(mine) == seed:  # a run that was cut short goes on
                mine.append(run(arm, seed, arguments.weighting, arguments.steps))
                print(seed, arm.name, mine[-1], flush=True)  # noqa: T201
                path.write_text(json.dumps({"steps": arguments.steps, "runs": runs}, indent=1))
    table = {}
    base = runs[ARMS[0].name]
    for arm in ARMS:
        mine = runs[arm.name]
        gains = [a["reward"] - b["reward"] for a, b in zip(mine, base, strict=False)]
        took = sum(r["seconds"] for r in mine) / len(mine) / (arm.share * arguments.steps)
        base_took = sum(r["seconds"] for r in base) / len(base) / arguments.steps
        table[arm.name] = {
            "reward": mean_interval([r["reward"] for r in mine])._asdict(),
            "difference": mean_interval(gains)._asdict(),
            "seconds": round(sum(r["seconds"] for r in mine) / len(mine), 2),
            "ms_a_step": round(1e3 * took, 3),
            "us_a_useful_sample": round(1e6 * took / arm.useful, 2),
            "share_of_base_per_useful_sample": round(
                (took / arm.useful) / (base_took / ARMS[0].useful), 3
            ),
        }
    facts = {"steps": arguments.steps, "seeds": arguments.seeds, "table": table, "runs": runs}
    path.write_text(json.dumps(facts, indent=1))
    print(json.dumps(table, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
