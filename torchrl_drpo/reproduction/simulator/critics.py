"""Critics of many seeds at once: small networks state (and action) -> H ReLU -> 1.

The logs are one-step bandits, so Q is a regression of the reward. Gradients are in closed form as
in :mod:`torchrl_drpo.reproduction.simulator.ensemble`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrl_drpo.envs.streams import stream_seed


class CriticEnsemble:
    """S networks of one number, each with its Adam.

    Args:
        seeds: of the initial weights, torch's defaults for linear layers.
        inputs: entries of an input row.
        part: ``"q"`` or ``"v"``: networks of equal seeds have a stream each.
        hidden: ReLU units.
        learning_rate: of Adam.
        device: where the parameters live.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        inputs: int,
        *,
        part: str,
        hidden: int = 128,
        learning_rate: float = 3e-4,
        device: torch.device | str = "cpu",
    ) -> None:
        layers = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream_seed(seed, part))
                layers.append((nn.Linear(inputs, hidden), nn.Linear(hidden, 1)))
        stacked = {
            "w1": torch.stack([first.weight.detach().T for first, _ in layers]),
            "b1": torch.stack([first.bias.detach()[None] for first, _ in layers]),
            "w2": torch.stack([last.weight.detach().T for _, last in layers]),
            "b2": torch.stack([last.bias.detach()[None] for _, last in layers]),
        }
        self.parameters: dict[str, Tensor] = {
            name: value.contiguous().to(device).requires_grad_() for name, value in stacked.items()
        }
        self.optimizer = torch.optim.Adam(
            list(self.parameters.values()), lr=learning_rate, fused=True
        )

    @torch.no_grad()
    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Activations ``[S, B, H]`` and values ``[S, B]`` of rows ``[S, B, inputs]``."""
        p = self.parameters
        hidden = torch.baddbmm(p["b1"], rows, p["w1"]).relu_()
        return hidden, torch.baddbmm(p["b2"], hidden, p["w2"]).squeeze(-1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Values ``[S, B]``."""
        return self.forward(rows)[1]

    @torch.no_grad()
    def step(self, rows: Tensor, hidden: Tensor, at_value: Tensor) -> None:
        """One step of Adam.

        Args:
            rows: as in :meth:`forward`.
            hidden: what it returned for them.
            at_value: derivative of the loss by each value, ``[S, B]``.
        """
        p, at_value = self.parameters, at_value.unsqueeze(-1)
        at_hidden = torch.ops.aten.threshold_backward(at_value * p["w2"].mT, hidden, 0.0)
        p["w2"].grad = torch.bmm(hidden.mT, at_value)
        p["b2"].grad = at_value.sum(1, keepdim=True)
        p["w1"].grad = torch.bmm(rows.mT, at_hidden)
        p["b1"].grad = at_hidden.sum(1, keepdim=True)
        self.optimizer.step()
