"""``drpo demo``: from a noisy simulated log to a better policy, in minutes on a laptop.

Behaviour cloning, the signed loss (APG) and DRPO learn from the same logs of the simulator of
arXiv 2602.10430, at the paper's hyperparameters; the random policy and the oracle are the ends.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.evaluation.simulator import evaluate_policy, oracle_reward, random_reward
from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.files import write_json
from torchrl_drpo.objectives import BehaviorCloningLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.pipeline.trainer import History, OfflineTrainer, TrainConfig
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
class DemoConfig:
    """Simulate a noisy recommendation log and learn from it with BC, the signed loss and DRPO.

    Attributes:
        out: folder for demo.png and demo.json.
        seeds: worlds (catalogue, users, log, initial policy), each with every method.
        scenario: logging mixture: "extreme" (90% random) or "medium".
        setting: simulator setting: "table" or "collapse".
        log_size: logged rows a world.
        users: held-out users that policies are evaluated on.
        workers: processes to train in, one thread each.
        quick: a small run (1 seed, 300 steps) that shows that everything works.
        json: print the results as JSON instead of a table.
        train: numbers of the training runs.
    """

    out: Path = Path("runs/demo")
    seeds: int = 3
    scenario: str = "extreme"
    setting: str = "table"
    log_size: int = 3_000
    users: int = 1_024
    workers: int = min(2, os.cpu_count() or 1)
    quick: bool = False
    json: bool = False
    train: TrainConfig = field(default_factory=lambda: TrainConfig(evaluate_every=250))

    def __post_init__(self) -> None:
        for name in ("seeds", "log_size", "users", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def resolved(self) -> DemoConfig:
        """This configuration with ``quick`` spelled out."""
        if not self.quick:
            return self
        small = replace(self.train, steps=300, evaluate_every=50)
        return replace(self, seeds=1, users=256, train=small)


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


@dataclass(frozen=True)
class DemoResult:
    """What ``drpo demo`` found.

    Attributes:
        config: what was run.
        cells: every method on every seed.
        ends: ``retrieved_reward`` of ``"random"`` and ``"oracle"``, a number for each seed.
        seconds: wall time.
    """

    config: DemoConfig
    cells: list[Cell]
    ends: dict[str, list[float]]
    seconds: float

    def per_seed(self, method: str, metric: str) -> list[float]:
        """A metric of a method, one number for each seed."""
        return [cell.metrics[metric] for cell in self.cells if cell.method == method]

    def interval(self, method: str, metric: str) -> Interval:
        """Mean and 95% interval over the seeds."""
        return mean_interval(self.per_seed(method, metric))

    def gain(self, method: str, metric: str, over: str = "BC") -> Interval:
        """Difference to another method, paired by seed."""
        pairs = zip(self.per_seed(method, metric), self.per_seed(over, metric), strict=True)
        return mean_interval([mine - other for mine, other in pairs])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data, with the machine it was measured on."""
        table = {
            method: {name: self.interval(method, name)._asdict() for name in self.cells[0].metrics}
            for method in METHODS
        }
        data = {
            "config": asdict(self.config),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "seconds": self.seconds,
            "ends": self.ends,
            "table": table,
            "cells": [asdict(cell) for cell in self.cells],
        }
        return _plain(data)


def run_demo(
    config: DemoConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> DemoResult:
    """Trains every method on every seed and writes ``demo.json`` and ``demo.png``.

    Args:
        config: what to run.
        progress: called with a cell's name, its step and its last step.

    Returns:
        The result.
    """
    from torchrl_drpo.report.plots import plot_demo

    config = config.resolved()
    start = time.perf_counter()
    ends = [_ends(config, seed) for seed in range(config.seeds)]
    cells = _run_cells(config, progress)
    result = DemoResult(
        config,
        cells,
        {"random": [e[0] for e in ends], "oracle": [e[1] for e in ends]},
        time.perf_counter() - start,
    )
    write_json(config.out / "demo.json", result.to_json())
    plot_demo(result, config.out / "demo.png")
    return result


def run_cell(
    config: DemoConfig,
    method: str,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Cell:
    """One method on one seed: simulate the log, train, evaluate on fresh users."""
    env = RecSimEnv(config.setting, seed=seed)
    log = env.simulate_log(config.log_size, config.scenario, seed=seed + 1, propensity=False)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(config.log_size),
        generator=torch.Generator().manual_seed(seed),
    )
    buffer.extend(log.select("observation", "action", ("next", "reward")))
    torch.manual_seed(seed)
    actor = make_gaussian_actor(env.setting.state_dim, env.setting.action_dim)
    loss = METHODS[method](actor)
    users = env.draw_states(config.users, seed=seed + 2)
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


def _ends(config: DemoConfig, seed: int) -> tuple[float, float]:
    """Mean reward of the random policy and of the oracle on a seed's users."""
    env = RecSimEnv(config.setting, seed=seed)
    interest = env.world.interest(env.draw_states(config.users, seed=seed + 2))
    delta = env.setting.delta
    return (
        random_reward(interest, env.items, delta=delta).mean().item(),
        oracle_reward(interest, env.items, delta=delta).mean().item(),
    )


def _run_cells(config: DemoConfig, progress: Callable[[str, int, int], None] | None) -> list[Cell]:
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


def _plain(value: Any) -> Any:
    """JSON data: paths as text, tuples as lists, numbers that JSON does not know as ``None``."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
