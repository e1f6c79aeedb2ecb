"""One loop for every rule: draw rows, weigh, score what is kept, step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.envs.streams import stream
from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.rules import Rule
from torchrl_drpo.reproduction.simulator.worlds import Worlds

_DRAWN = 256  # steps whose rows are drawn together


@dataclass(frozen=True)
class Schedule:
    """The paper's hyperparameters.

    Attributes:
        steps: gradient steps.
        batch_size: rows a step, of each seed.
        learning_rate: of Adam.
        evaluations: evaluations in a run, evenly spaced; the last fifth of them is averaged.
    """

    steps: int = 5_000
    batch_size: int = 320
    learning_rate: float = 3e-4
    evaluations: int = 20


@dataclass
class Run:
    """What a run found.

    Attributes:
        metrics: late-window means, a number for each seed.
        curves: by metric, a list of (step, mean over seeds).
        policies: the trained policies.
    """

    metrics: dict[str, list[float]]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    policies: PolicyEnsemble | None = None

    def to_json(self) -> dict[str, object]:
        """JSON data; what is not a number is ``None``."""
        metrics = {name: [json_number(v) for v in values] for name, values in self.metrics.items()}
        curves = {
            name: [(step, json_number(v)) for step, v in points]
            for name, points in self.curves.items()
        }
        return {"metrics": metrics, "curves": curves}


def train(worlds: Worlds, rule: Rule, schedule: Schedule | None = None) -> Run:
    """Trains one policy a seed by the rule.

    Batches are drawn with replacement from each seed's own generator, so a seed's run does not
    depend on the others, and all rules see the same rows.

    Args:
        worlds: logs and users.
        rule: the objective; used up.
        schedule: steps, batch size, learning rate.

    Returns:
        Late-window metrics of each seed, with ``log_sigma`` and the rule's own numbers.
    """
    schedule = schedule or Schedule()
    setting = worlds.setup.world
    policies = PolicyEnsemble(
        worlds.seeds, setting.state_dim, setting.action_dim, device=worlds.device
    )
    optimizer = torch.optim.Adam(
        list(policies.parameters.values()), lr=schedule.learning_rate, fused=True
    )
    rule.prepare(worlds, policies, schedule.steps)
    rows = _Rows(worlds, schedule.batch_size)
    every = max(1, schedule.steps // schedule.evaluations)
    history: list[tuple[int, dict[str, list[float]]]] = []
    for step in range(schedule.steps):
        batch = rows.draw(step)
        weight = rule.weigh(batch, step)
        weight, batch = _packed(weight, batch)
        state, action = worlds.read(batch["row"])
        scores = policies.score(state, action)
        policies.backward(scores, rule.reweigh(weight, scores, batch, step))
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            served = rule.serve(policies.mean(worlds.users), worlds.users)
            found = worlds.evaluate(served)
            found["log_sigma"] = policies.sigma.log().mean((-1, -2)).tolist()
            found |= {name: value.tolist() for name, value in rule.report().items()}
            history.append((step + 1, found))
    return _summary(history, schedule.steps, policies)


class _Rows:
    """Draws row numbers for every seed, with the log's columns of one number a row."""

    def __init__(self, worlds: Worlds, batch_size: int) -> None:
        self.log, self.batch_size = worlds.log, batch_size
        self.generators = [stream(seed, "batches") for seed in worlds.seeds]
        self.device = worlds.device
        self.drawn = torch.empty(0)

    def draw(self, step: int) -> TensorDict:
        """Columns of a batch, ``[S, B]``: ``row`` and everything of one number a row."""
        if step % _DRAWN == 0:
            shape = (_DRAWN, self.batch_size)
            count = self.log.shape[1]
            drawn = [torch.randint(count, shape, generator=g) for g in self.generators]
            self.drawn = torch.stack(drawn, 1).to(self.device)
        row = self.drawn[step % _DRAWN]
        columns = {
            name: column.gather(1, row)
            for name, column in self.log.items()
            if column.ndim == 2 and column.is_floating_point()
        }
        return TensorDict({**columns, "row": row}, batch_size=row.shape)


def _packed(weight: Tensor, batch: TensorDict) -> tuple[Tensor, TensorDict]:
    """The rows that some seed keeps, in front; a seed with fewer has zeros behind them."""
    kept = weight != 0
    width = int(kept.sum(-1).max())
    if width > 0.8 * weight.shape[-1]:  # not worth the sorting
        return weight, batch
    order = kept.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
    order = order[:, : max(1, width)]
    columns = {name: column.gather(-1, order) for name, column in batch.items()}
    return weight.gather(-1, order), TensorDict(columns, batch_size=order.shape)


def _summary(
    history: Sequence[tuple[int, dict[str, list[float]]]], steps: int, policies: PolicyEnsemble
) -> Run:
    window = late_window([step for step, _ in history], steps)
    late = [found for _, found in history[window]]
    metrics, curves = {}, {}
    for name in history[0][1]:
        columns = zip(*(found[name] for found in late), strict=True)
        metrics[name] = [sum(column) / len(column) for column in columns]
        curves[name] = [(step, sum(f[name]) / len(f[name])) for step, f in history]
    return Run(metrics, curves, policies)


def json_number(value: float) -> float | None:
    """Six decimals; ``None`` for what JSON has no number for."""
    return round(value, 6) if math.isfinite(value) else None
