r"""Gaussian policies of many seeds trained at once, with the gradient in closed form.

Every objective here is :math:`-\frac1K \sum_i w_i \log\pi(a_i|s_i)` with weights that are
constants of the step, so its gradient needs no graph: with :math:`z = (a - \mu)/\sigma` it is
:math:`-w z/\sigma` in the mean and :math:`w (1 - z^2)` in :math:`\log\sigma`. A step of S seeds is
a handful of batched matrix products. Rows that no seed keeps cost nothing.

The tests train the package's own LossModules on the same batches and compare the parameters.

Notation   S seeds, B rows a batch, p state entries, H hidden units, d action entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl_drpo.envs.streams import stream_seed
from torchrl_drpo.policies.gaussian import GaussianHead, make_gaussian_actor

_LOW, _HIGH = -5.0, 2.0  # of log sigma; those of make_gaussian_actor


class PolicyEnsemble:
    """S policies of the paper's form, state -> H ReLU -> mean, with one log sigma vector each.

    Args:
        seeds: of the initial weights, which are those of ``make_gaussian_actor`` from the seed's
            stream ``"policy"``.
        state_dim: p.
        action_dim: d.
        device: where the parameters live.

    Attributes:
        parameters: ``w1 [S, p, H]``, ``b1 [S, 1, H]``, ``w2 [S, H, d]``, ``b2 [S, 1, d]`` and
            ``log_std [S, 1, d]``; each has its ``.grad`` after :meth:`backward`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        state_dim: int,
        action_dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        heads = [_initial_head(seed, state_dim, action_dim) for seed in seeds]
        first, second = [h.mean[0] for h in heads], [h.mean[2] for h in heads]
        self.parameters: dict[str, Tensor] = {
            "w1": torch.stack([layer.weight.detach().T for layer in first]),
            "b1": torch.stack([layer.bias.detach()[None] for layer in first]),
            "w2": torch.stack([layer.weight.detach().T for layer in second]),
            "b2": torch.stack([layer.bias.detach()[None] for layer in second]),
            "log_std": torch.stack([head.log_std.detach()[None] for head in heads]),
        }
        for name, value in self.parameters.items():
            self.parameters[name] = value.contiguous().to(device).requires_grad_()

    def mean(self, state: Tensor) -> Tensor:
        """Means of states ``[S, B, p]``: ``[S, B, d]``; without a graph."""
        return self._forward(state)[1]

    @property
    def sigma(self) -> Tensor:
        """Standard deviations, ``[S, 1, d]``."""
        return self.parameters["log_std"].detach().clamp(_LOW, _HIGH).exp()

    @torch.no_grad()
    def score(self, state: Tensor, action: Tensor) -> Scores:
        """What rules and :meth:`backward` need of rows ``[S, B, ...]``."""
        hidden, loc = self._forward(state)
        sigma = self.sigma
        z = action.sub(loc).div_(sigma)
        return Scores(state, hidden, z, (z * z).sum(-1), sigma)

    @torch.no_grad()
    def backward(self, scores: Scores, weight: Tensor) -> None:
        """Sets every ``.grad`` to that of ``-(weight * log_prob).sum()``.

        Args:
            scores: of :meth:`score`; its ``z`` is used up.
            weight: signed and already divided by the count, ``[S, B]``.
        """
        p = self.parameters
        weighted = scores.z * weight.unsqueeze(-1)
        log_std = weight.sum(-1)[:, None, None] - (weighted * scores.z).sum(1, keepdim=True)
        inside = (p["log_std"] >= _LOW) & (p["log_std"] <= _HIGH)
        at_mean = weighted.div_(scores.sigma).neg_()
        at_hidden = torch.bmm(at_mean, p["w2"].mT)
        at_hidden = torch.ops.aten.threshold_backward(at_hidden, scores.hidden, 0.0)  # ReLU's
        p["log_std"].grad = torch.where(inside, log_std, 0.0)
        p["w2"].grad = torch.bmm(scores.hidden.mT, at_mean)
        p["b2"].grad = at_mean.sum(1, keepdim=True)
        p["w1"].grad = torch.bmm(scores.state.mT, at_hidden)
        p["b1"].grad = at_hidden.sum(1, keepdim=True)

    @torch.no_grad()
    def copy(self) -> dict[str, Tensor]:
        """The parameters as they are now, detached."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def _forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        p = self.parameters
        hidden = torch.baddbmm(p["b1"], state, p["w1"]).relu_()
        return hidden, torch.baddbmm(p["b2"], hidden, p["w2"])


class Scores:
    """Scored rows: what the policies say of them.

    Attributes:
        state: ``[S, B, p]``.
        hidden: activations, ``[S, B, H]``.
        z: standardised actions, ``[S, B, d]``.
        distance: squared Mahalanobis distance D, ``[S, B]``.
        sigma: ``[S, 1, d]``.
    """

    def __init__(
        self, state: Tensor, hidden: Tensor, z: Tensor, distance: Tensor, sigma: Tensor
    ) -> None:
        self.state, self.hidden, self.z = state, hidden, z
        self.distance, self.sigma = distance, sigma

    @property
    def log_prob(self) -> Tensor:
        """Log-densities, ``[S, B]``."""
        log_volume = self.sigma.log().sum((-1, -2)).unsqueeze(-1)
        d = self.sigma.shape[-1]
        return -0.5 * self.distance - log_volume - 0.5 * d * math.log(2 * math.pi)


def _initial_head(seed: int, state_dim: int, action_dim: int) -> GaussianHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "policy"))
        actor = make_gaussian_actor(state_dim, action_dim)
    return next(m for m in actor.modules() if isinstance(m, GaussianHead))
