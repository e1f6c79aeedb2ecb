"""Small logs with a known truth."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import LoggedRows


def policies(states: int = 3, items: int = 6, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(states, items, generator=generator).double()
    other = logits + apart * torch.randn(states, items, generator=generator).double()
    return torch.softmax(logits, -1), torch.softmax(other, -1)


def draw(rows: int = 400, seed: int = 0, users: int | None = None) -> dict[str, Tensor]:
    """Everything about a log, the tables ``[S, A]`` included, and truth."""
    generator = torch.Generator().manual_seed(seed)
    behavior, target = policies()
    state = torch.randint(3, (rows,), generator=generator)
    action = torch.multinomial(behavior[state], 1, generator=generator)[:, 0]
    expected = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).double()
    reward = (torch.rand(rows, generator=generator).double() < expected[state, action]).double()
    model = expected + 0.1 * torch.randn(3, 6, generator=torch.Generator().manual_seed(2)).double()
    cluster = None if users is None else torch.arange(rows) % users
    return {
        "behavior": behavior,
        "target": target,
        "state": state,
        "action": action,
        "reward": reward,
        "model": model,
        "expected": expected,
        "cluster": cluster,
    }


def logged(world: dict[str, Tensor], groups: Tensor | None = None) -> LoggedRows:
    """What estimators see of it; ``groups`` of the items, int64 ``[A]``."""
    state, action = world["state"], world["action"]
    of_group = {}
    if groups is not None:
        same = groups.unsqueeze(0) == groups[action].unsqueeze(-1)
        of_group = {
            f"log_{name}_group": (world[name][state] * same).sum(-1).log()
            for name in ("target", "behavior")
        }
    return LoggedRows(
        reward=world["reward"],
        log_target=world["target"][state, action].log(),
        log_behavior=world["behavior"][state, action].log(),
        prediction=world["model"][state, action],
        value=(world["target"] * world["model"]).sum(-1)[state],
        cluster=world["cluster"],
        **of_group,
    )
