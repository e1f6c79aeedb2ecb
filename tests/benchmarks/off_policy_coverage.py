"""How often 95% intervals of off-policy estimates hold what they are for, in four worlds.

    python tests/benchmarks/off_policy_coverage.py --out results/off_policy

Every world has a known truth; a replication draws a log anew, and asks every estimator for its
interval. Beside ours stands the interval that takes the mean of ``w r / mean(w)`` for a plain mean
(what Open Bandit Pipeline resamples), and for clicks the normal interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import weights as control
from torchrl_drpo.evaluation.off_policy.estimators import (
    clipped_ips,
    doubly_robust,
    ips,
    self_normalised_doubly_robust,
    snips,
)
from torchrl_drpo.evaluation.off_policy.intervals import standard_error
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows
from torchrl_drpo.files import write_json, write_text

CAP = 5.0
NORMAL = 1.959964


@dataclass(frozen=True)
class World:
    """Policies and expected rewards over ``[S, A]`` states and actions, and how rows are drawn.

    Attributes:
        name: of the table's row.
        behavior: of the logging policy, ``[S, A]``.
        target: of the policy in question, ``[S, A]``.
        reward: expected reward, in [0, 1], ``[S, A]``.
        rows: of a log.
        rows_a_user: rows of one user, who has one state and a taste of his own.
        model_error: of the reward model, added to the expected reward.
    """

    name: str
    behavior: Tensor
    target: Tensor
    reward: Tensor
    rows: int = 1_000
    rows_a_user: int = 1
    taste: float = 0.0
    model_error: float = 0.05

    @property
    def truth(self) -> float:
        """The policy's value."""
        return (self.target * self.reward).sum(-1).mean().item()

    def clipped_truth(self, cap: float) -> float:
        """What clipped weights estimate."""
        ratio = (self.target / self.behavior).clamp(max=cap)
        return (self.behavior * ratio * self.reward).sum(-1).mean().item()

    def draw(self, generator: torch.Generator) -> LoggedRows:
        """A log."""
        users = self.rows // self.rows_a_user
        state = torch.randint(len(self.behavior), (users,), generator=generator)
        state = state.repeat_interleave(self.rows_a_user)
        action = torch.multinomial(self.behavior[state], 1, generator=generator)[:, 0]
        likely = self.reward[state, action]
        if self.taste:
            sign = torch.randint(2, (users,), generator=generator) * 2 - 1
            likely = likely + self.taste * sign.repeat_interleave(self.rows_a_user)
        reward = (torch.rand(self.rows, generator=generator).double() < likely).double()
        model = self.reward + self.model_error
        cluster = torch.arange(users).repeat_interleave(self.rows_a_user)
        return LoggedRows(
            reward=reward,
            log_target=self.target[state, action].log(),
            log_behavior=self.behavior[state, action].log(),
            prediction=model[state, action],
            value=(self.target * model).sum(-1)[state],
            cluster=cluster if self.rows_a_user > 1 else None,
        )


def worlds() -> list[World]:
    """The four of the table."""
    generator = torch.Generator().manual_seed(0)

    def policies(states: int, items: int, apart: float) -> tuple[Tensor, Tensor]:
        logits = torch.randn(states, items, generator=generator).double()
        other = logits + apart * torch.randn(states, items, generator=generator).double()
        return torch.softmax(logits, -1), torch.softmax(other, -1)

    behavior, target = policies(5, 20, 0.8)
    noise = torch.rand(5, 20, generator=generator).double()
    high = (0.7 + 0.2 * noise).clamp(max=0.95)
    falling = 0.9 / (1 + target / behavior)
    rare_behavior, rare_target = policies(4, 80, 1.0)
    clicks = 0.003 * (0.2 + 1.6 * torch.rand(4, 80, generator=generator).double())
    return [
        World("mean reward .8", behavior, target, high),
        World("reward falls with weight", behavior, target, falling),
        World("clicks .3%", rare_behavior, rare_target, clicks, rows=10_000, model_error=0.001),
        World("rows of users", behavior, target, 0.3 + 0.4 * noise, 2_000, 10, 0.25),
    ]


def plain_snips(rows: LoggedRows) -> tuple[float, float, float]:
    """The interval that keeps the denominator fixed."""
    w = rows.log_ratio.exp()
    terms = w * rows.reward / w.mean()
    half = NORMAL * standard_error(terms - terms.mean())
    return terms.mean().item(), terms.mean().item() - half, terms.mean().item() + half


def normal_clipped(rows: LoggedRows) -> tuple[float, float, float]:
    """The normal interval of clipped IPS."""
    terms = control.clipped_weights(rows.log_ratio, CAP) * rows.reward
    half = NORMAL * standard_error(terms - terms.mean(), rows.cluster)
    return terms.mean().item(), terms.mean().item() - half, terms.mean().item() + half


def ours(estimator: Callable[[LoggedRows], object]) -> Callable[[LoggedRows], tuple]:
    """Value and interval of one of ours."""

    def found(rows: LoggedRows) -> tuple[float, float, float]:
        estimate = estimator(rows)
        return estimate.value, estimate.low, estimate.high

    return found


WAYS: dict[str, Callable[[LoggedRows], tuple[float, float, float]]] = {
    "IPS": ours(ips),
    "clipped IPS": ours(lambda rows: clipped_ips(rows, cap=CAP)),
    "SNIPS": ours(snips),
    "DR": ours(doubly_robust),
    "SNDR": ours(self_normalised_doubly_robust),
    "(clipped IPS, normal)": normal_clipped,
    "(SNIPS, fixed denominator)": plain_snips,
}


def coverage(world: World, replications: int, seed: int = 0) -> list[dict[str, object]]:
    """For each way: how often its interval holds, and its width beside the right normal one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [world.draw(generator) for _ in range(replications)]
    out = []
    for name, way in WAYS.items():
        truth = world.clipped_truth(CAP) if "clipped" in name else world.truth
        found = torch.tensor([way(rows) for rows in drawn], dtype=torch.float64)
        value, low, high = found.unbind(-1)
        spread = value.std().item()  # of the estimator itself: the width that 95% really takes
        out.append(
            {
                "world": world.name,
                "estimator": name,
                "coverage": ((low <= truth) & (truth <= high)).double().mean().item(),
                "width": ((high - low).mean() / (2 * NORMAL * spread)).item(),
                "bias": (value.mean().item() - truth) / spread,
                "replications": replications,
            }
        )
    return out


def main() -> None:
    """Writes ``coverage.json`` and ``coverage.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/off_policy"))
    parser.add_argument("--replications", type=int, default=1_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for world in worlds() for row in coverage(world, arguments.replications)]
    write_json(arguments.out / "coverage.json", found)
    lines = [
        f"How often 95% intervals hold what they are for, in {arguments.replications:,} logs of "
        "each world; their width beside that of the normal interval with the estimator's true "
        "spread; the estimator's bias in such spreads. In brackets: what is done elsewhere.",
        "",
        "| world | estimator | coverage | width | bias |",
        "|:--|:--|--:|--:|--:|",
    ]
    lines += [
        f"| {row['world']} | {row['estimator']} | {row['coverage']:.3f} | {row['width']:.2f} | "
        f"{row['bias']:+.2f} |"
        for row in found
    ]
    write_text(arguments.out / "coverage.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
