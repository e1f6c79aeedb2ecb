"""The simulated worlds of a comparison, one a seed, stacked so that all seeds train at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.envs.settings import RecSimSetting, Scenario
from torchrl_drpo.envs.simulate import simulate_log
from torchrl_drpo.envs.streams import stream, stream_seed
from torchrl_drpo.envs.world import RecSimWorld
from torchrl_drpo.evaluation.simulator import oracle_reward, random_reward
from torchrl_drpo.functional.similarity import cosine_reward, unit

#: Rows of a log: the table setting learns from few (a rich log brings all sane methods together).
LOG_SIZE = {"table": 3_000, "collapse": 10_000}


@dataclass(frozen=True)
class Setup:
    """Where a comparison takes place.

    Attributes:
        setting: ``"table"`` or ``"collapse"``.
        scenario: ``"medium"`` or ``"extreme"``; ``None`` for ``shares``.
        shares: of expert, popularity and random logger, where ``scenario`` is ``None``.
        log_size: rows; ``None`` for the setting's own.
        changes: fields of :class:`RecSimSetting` that differ from the setting's.
        users: held-out users of every seed.
    """

    setting: str = "table"
    scenario: str | None = "extreme"
    shares: tuple[float, float, float] | None = None
    log_size: int | None = None
    changes: dict[str, float] = field(default_factory=dict)
    users: int = 1_024

    @property
    def world(self) -> RecSimSetting:
        """The numbers of the world."""
        return replace(RecSimSetting.preset(self.setting), **self.changes)

    @property
    def mixture(self) -> Scenario:
        """Who filled the log."""
        if self.scenario is not None:
            return Scenario.preset(self.scenario)
        if self.shares is None:
            raise ValueError("a setup needs a scenario or the shares of the loggers, got neither")
        return Scenario(*self.shares)

    @property
    def rows(self) -> int:
        """Rows of the log."""
        return self.log_size or LOG_SIZE[self.setting]


class Worlds:
    """Worlds, logs and held-out users of S seeds.

    World, log and users of a seed have a stream each
    (:mod:`torchrl_drpo.envs.streams`). A seed's numbers do not depend on which
    other seeds are there.

    Args:
        setup: where.
        seeds: one world each.
        device: where the tensors live.

    Attributes:
        log: batch ``[S, N]``: ``observation``, ``action``, ``reward``, ``latent_reward``,
            ``component``.
        users: held-out states, ``[S, M, state_dim]``.
        interest: their latent interests, ``[S, M, d]``.
    """

    def __init__(self, setup: Setup, seeds: Sequence[int], device: str = "cpu") -> None:
        self.setup, self.seeds, self.device = setup, tuple(seeds), torch.device(device)
        self.worlds = [
            RecSimWorld(setup.world, seed=stream_seed(seed, "world")) for seed in self.seeds
        ]
        logs, users = [], []
        for seed, world in zip(seeds, self.worlds, strict=True):
            log = simulate_log(
                world,
                setup.rows,
                setup.mixture,
                generator=stream(seed, "log"),
                propensity=False,
            )
            columns = log.select("observation", "action", "latent_reward", "component")
            logs.append(columns.set("reward", log["next", "reward"].squeeze(-1)))
            users.append(world.draw_states(setup.users, generator=stream(seed, "users")))
        self.log: TensorDict = torch.stack(logs).to(self.device)
        self.users: Tensor = torch.stack(users).to(self.device)
        interest = [w.interest(u) for w, u in zip(self.worlds, users, strict=True)]
        self.interest = torch.stack(interest).to(self.device)
        self._directions = [unit(world.items).to(self.device) for world in self.worlds]
        self._best = [
            d[(u @ d.T).argmax(-1)] for u, d in zip(self.interest, self._directions, strict=True)
        ]

    def read(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Observations and actions of rows ``[S, K]`` of the log: ``[S, K, ...]``."""
        seeds, count = self.log.shape
        start = count * torch.arange(seeds, device=row.device).unsqueeze(-1)
        flat = (row + start).flatten()
        return tuple(  # type: ignore[return-value]
            self.log[name].flatten(0, 1).index_select(0, flat).view(*row.shape, -1)
            for name in ("observation", "action")
        )

    def ends(self) -> dict[str, list[float]]:
        """Mean reward of the random policy and of the oracle, a number for each seed."""
        found: dict[str, list[float]] = {"random": [], "oracle": []}
        for world, interest in zip(self.worlds, self.interest.cpu(), strict=True):
            delta = world.setting.delta
            for name, reward in (("random", random_reward), ("oracle", oracle_reward)):
                found[name].append(reward(interest, world.items, delta=delta).mean().item())
        return found

    @torch.no_grad()
    def evaluate(self, action: Tensor) -> dict[str, list[float]]:
        """What mean actions ``[S, M, d]`` for the held-out users are worth, seed by seed.

        Returns:
            ``retrieved_reward``, ``raw_reward`` and ``action_distance`` as in
            :func:`~torchrl_drpo.evaluation.simulator.evaluate_policy`; NaN for a seed whose
            policy is not finite.
        """
        delta = self.setup.world.delta
        found: dict[str, list[float]] = {
            "retrieved_reward": [],
            "raw_reward": [],
            "action_distance": [],
        }
        root = action.shape[-1] ** 0.5
        parts = zip(action, self.interest, self._directions, self._best, strict=True)
        for a, interest, directions, best in parts:
            heading = unit(a)
            raw = cosine_reward((heading * interest).sum(-1).clamp(max=1.0), delta)
            nearest = directions[(heading @ directions.T).argmax(-1)]
            reward = cosine_reward((nearest * interest).sum(-1), delta)
            distance = torch.linalg.vector_norm(a / root - best, dim=-1)
            broken = torch.where(a.isfinite().all(), 0.0, torch.nan)
            for name, values in zip(found, (reward, raw, distance), strict=True):
                found[name].append((values.mean() + broken).item())
        return found
