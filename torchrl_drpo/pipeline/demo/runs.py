"""The demo's runs: every method on every seed, a process a core.

Behaviour cloning, the signed loss (APG) and DRPO learn from the same logs of the simulator of
arXiv 2602.10430, at the paper's hyperparameters; the random policy and the oracle are the ends.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.envs.streams import stream, stream_seed
from torchrl_drpo.evaluation.simulator import evaluate_policy, oracle_reward, random_reward
from torchrl_drpo.objectives import BehaviorCloningLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.pipeline.config.demo import DemoConfig
from torchrl_drpo.pipeline.trainer import History, OfflineTrainer
from torchrl_drpo.policies.gaussian import make_gaussian_actor

#: The objectives that are compared, in the order of the table.
METHODS: dict[str, Callable[..., Any]] = {
    "BC": BehaviorCloningLoss,
    "APG": RepulsiveLoss,
    "DRPO": DRPOLoss,
}
#: Evaluations over this last share of a run are averaged: a late window, not the best checkpoint.
LATE_WINDOW = 0.2


@dataclass(frozen=True)
class Cell:
    """One method on one seed.

    Attributes:
        method: a name of ``METHODS``.
        seed: of the world, the log and the initial policy.
        metrics: late-window means.
        history: everything that was logged.
    """

    method: str
    seed: int
    metrics: dict[str, float]
    history: History


def run_cell(
    config: DemoConfig,
    method: str,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Cell:
    """One method on one seed: simulate the log, train, evaluate on fresh users."""
    env = RecSimEnv(config.setting, seed=seed)
    log = env.simulate_log(
        config.log_size, config.scenario, seed=stream_seed(seed, "log"), propensity=False
    )
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.log_size),
        generator=stream(seed, "batches"),
    )
    buffer.extend(log.select("observation", "action", ("next", "reward")))
    torch.manual_seed(stream_seed(seed, "policy"))
    actor = make_gaussian_actor(env.setting.state_dim, env.setting.action_dim)
    loss = METHODS[method](actor)
    users = env.draw_states(config.users, seed=stream_seed(seed, "users"))
    interest = env.world.interest(users)

    def evaluate(step: int) -> dict[str, float]:
        # The loss holds the very parameters of the actor, so the actor is up to date.
        sigma = actor.get_dist(TensorDict({"observation": users[:1]}, batch_size=[1])).scale
        values = evaluate_policy(actor, users, interest, env.items, delta=env.setting.delta)
        return {"log_sigma": sigma.log().mean().item(), **values}

    def tell(step: int, values: dict[str, float]) -> None:
        if progress is not None:
            progress(f"{method} seed {seed}", step, config.train.steps)

    history = OfflineTrainer(loss, buffer, config.train, evaluate=evaluate, progress=tell).run()
    return Cell(method, seed, late_window(history, config.train.steps), history)


def late_window(history: History, steps: int) -> dict[str, float]:
    """Means of the evaluations in the last ``LATE_WINDOW`` of a run."""
    start = (1 - LATE_WINDOW) * steps
    means = {}
    for name, points in history.evaluation.items():
        late = [value for step, value in points if step > start] or [points[-1][1]]
        means[name] = math.fsum(late) / len(late)
    return means


def ends_of(config: DemoConfig, seed: int) -> tuple[float, float]:
    """Mean reward of the random policy and of the oracle on a seed's users."""
    env = RecSimEnv(config.setting, seed=seed)
    interest = env.world.interest(env.draw_states(config.users, seed=stream_seed(seed, "users")))
    delta = env.setting.delta
    return (
        random_reward(interest, env.items, delta=delta).mean().item(),
        oracle_reward(interest, env.items, delta=delta).mean().item(),
    )


def run_cells(config: DemoConfig, progress: Callable[[str, int, int], None] | None) -> list[Cell]:
    """Every method on every seed, by seed and in the order of the table."""
    jobs = [(method, seed) for seed in range(config.seeds) for method in METHODS]
    workers = min(config.workers, len(jobs))
    if workers == 1:
        return [run_cell(config, method, seed, progress) for method, seed in jobs]
    # Small networks gain nothing from a second thread: one process a core instead.
    context = get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(reports,)
    ) as pool:
        pending = {pool.submit(_run_cell_in_worker, config, *job) for job in jobs}
        futures = list(pending)
        while pending:
            pending = wait(pending, timeout=0.2).not_done
            while not reports.empty():
                report = reports.get()
                if progress is not None:
                    progress(*report)
        cells = [future.result() for future in futures]
    return sorted(cells, key=lambda cell: (cell.seed, list(METHODS).index(cell.method)))


_reports: Any = None  # a worker's way to tell the parent how far it is


def _start_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)
    logging.getLogger("torchrl").setLevel(logging.WARNING)


def _run_cell_in_worker(config: DemoConfig, method: str, seed: int) -> Cell:
    return run_cell(config, method, seed, lambda *report: _reports.put(report))
