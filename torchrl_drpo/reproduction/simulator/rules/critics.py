"""Rules that learn their quality signal: IQL, DRPO-Q and CRR.

Critics train along with the policy, on the same rows, by Adam at 3e-4.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.critics import CriticEnsemble
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.rules.filters import TopFraction
from torchrl_drpo.reproduction.simulator.worlds import Worlds

_SAMPLE_STREAM = 103  # of CRR's samples


class _WithQ(Rule):
    """Regresses the reward on state and action, along with the policy."""

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fresh critics."""
        self.worlds, self.policies = worlds, policies
        states, actions = (worlds.log[name].shape[-1] for name in ("observation", "action"))
        seeds, device = worlds.seeds, worlds.device
        self.q = CriticEnsemble(seeds, states + actions, part="q", device=device)
        self.v = CriticEnsemble(seeds, states, part="v", device=device)

    def _train_q(self, state: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        """Q of the rows before this step's update."""
        rows = torch.cat([state, action], -1)
        hidden, q = self.q.forward(rows)
        self.q.step(rows, hidden, 2 * (q - reward) / q.shape[-1])
        return q


class ExpectileAdvantage(_WithQ):
    r"""IQL on a bandit: :math:`w = \min(\exp(\beta (Q - V)), c)`, V the expectile of Q.

    Source: Kostrikov et al. 2021 (arXiv 2110.06169), eq. 5 to 7; no target network, for a bandit's
    Q has no bootstrap to hold still.

    Args:
        expectile: of V.
        inverse_temperature: beta.
        max_weight: c.
    """

    def __init__(
        self,
        *,
        expectile: float = 0.9,
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
    ) -> None:
        super().__init__()
        self.expectile, self.max_weight = expectile, max_weight
        self.inverse_temperature = inverse_temperature

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Exponential weights of the learned advantage."""
        weight = torch.exp(self.inverse_temperature * self._advantage(batch))
        return weight.clamp_max(self.max_weight) / batch.shape[-1]

    def _advantage(self, batch: TensorDict) -> Tensor:
        """Q - V, before this step's updates of both."""
        state, action = self.worlds.read(batch["row"])
        q = self._train_q(state, action, batch["reward"])
        hidden, v = self.v.forward(state)
        error = q - v
        side = torch.where(error > 0, self.expectile, 1 - self.expectile)
        self.v.step(state, hidden, -2 * side * error / v.shape[-1])
        return error


class LearnedTop(ExpectileAdvantage):
    """DRPO-Q (``DRPOQLoss``): DRPO with Q - V in place of the reward.

    Args:
        expectile: of V.
        options: of :class:`~torchrl_drpo.reproduction.simulator.rules.TopFraction`.
    """

    def __init__(self, *, expectile: float = 0.7, **options: object) -> None:
        super().__init__(expectile=expectile)
        self.top = TopFraction(quality="learned", **options)  # type: ignore[arg-type]

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Critics, and the filter's kappa."""
        super().prepare(worlds, policies, steps)
        self.top.prepare(worlds, policies, steps)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The filter on the learned advantage."""
        return self.top.weigh(batch.set("learned", self._advantage(batch)), step)

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """The filter's."""
        return self.top.reweigh(weight, scores, batch, step)

    def report(self) -> dict[str, Tensor]:
        """The filter's kappa."""
        return self.top.report()


class PolicyAdvantage(_WithQ):
    r"""CRR: :math:`w = \min(\exp(A/\beta), c)`, A = Q minus its mean at the policy's own actions.

    Source: Wang et al. 2020 (arXiv 2006.15134), eq. 4.

    Args:
        temperature: beta.
        samples: actions of the policy that the mean is taken over.
        max_weight: c.
    """

    def __init__(
        self, *, temperature: float = 1.0, samples: int = 4, max_weight: float = 20.0
    ) -> None:
        super().__init__()
        self.temperature, self.samples, self.max_weight = temperature, samples, max_weight

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Critics, and the generator of the policy's samples."""
        super().prepare(worlds, policies, steps)
        self.generator = torch.Generator(worlds.device).manual_seed(_SAMPLE_STREAM)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Exponential weights of the advantage over the policy."""
        state, action = self.worlds.read(batch["row"])
        own = self._own_value(state)  # of the critic that judges the rows, not of the next one
        q = self._train_q(state, action, batch["reward"])
        weight = torch.exp((q - own) / self.temperature)
        return weight.clamp_max(self.max_weight) / batch.shape[-1]

    @torch.no_grad()
    def _own_value(self, state: Tensor) -> Tensor:
        mean, sigma = self.policies.mean(state), self.policies.sigma
        total = torch.zeros_like(state[..., 0])
        for _ in range(self.samples):
            # One noise for all seeds, which is cheaper: it says nothing of anybody's world, and
            # what an average over it is off by goes the way of the critic, which each has alone.
            noise = torch.randn(mean.shape[1:], generator=self.generator, device=mean.device)
            total += self.q(torch.cat([state, torch.addcmul(mean, noise, sigma)], -1))
        return total / self.samples
