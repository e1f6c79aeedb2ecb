"""Policies of many arms and seeds, trained at once.

P = arms x seeds policies, arm by arm, live in one stack of parameters; the loss is the package's
own ``RepulsiveLoss`` with ``reduction="none"`` on batches ``[P, B, n]`` of B states with n logged
actions each, so a policy's gradient is that of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_drpo.objectives import RepulsiveLoss


class StackedMLP(nn.Module):
    """Two hidden layers of 64, one network for each seed; stacked ``[P, in, out]``.

    Args:
        sizes: of the input and the output.
        seeds: of the initial weights, ``nn.Linear``'s.
        activation: between the layers, in place.
        zero_head: whether the last layer starts at zero.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        seeds: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        *,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        networks = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                layers = [nn.Linear(sizes[0], 64), nn.Linear(64, 64), nn.Linear(64, sizes[1])]
            networks.append(layers)
        if zero_head:
            for layers in networks:
                nn.init.zeros_(layers[-1].weight)
                nn.init.zeros_(layers[-1].bias)
        stacked = list(zip(*networks, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([layer.weight.detach().T for layer in layers]) for layers in stacked
        )
        self.biases = nn.ParameterList(
            torch.stack([layer.bias.detach()[None] for layer in layers]) for layers in stacked
        )

    def forward(self, state: Tensor) -> Tensor:
        """``[P, B, in]`` to ``[P, B, out]``."""
        *hidden, last = zip(self.biases, self.weights, strict=True)
        for bias, weight in hidden:
            state = self.activation(torch.baddbmm(bias, state, weight))
        return torch.baddbmm(last[0], state, last[1])


def copy_to_arms(module: nn.Module, arms: int) -> None:
    """Repeats the parameters of S policies, ``[S, ...]``, for each of the arms, in place."""
    for parameter in module.parameters():
        parameter.data = parameter.data.repeat(arms, *[1] * (parameter.ndim - 1)).contiguous()
        parameter.grad = None


def train(
    loss: RepulsiveLoss,
    batch: Callable[[], TensorDict],
    *,
    steps: int,
    rates: tuple[float, float],
    evaluations: int = 0,
) -> Iterator[int]:
    """Adam on what ``batch`` gives, the rate falling from the first to the second as a cosine.

    Args:
        loss: with ``reduction="none"``.
        batch: gives ``[P, B, n]``.
        steps: gradient steps.
        rates: first and last learning rate.
        evaluations: how often to stop and yield, evenly and at last at the end.

    Yields:
        The number of steps taken.
    """
    parameters = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rates[0], fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=rates[1])
    every = max(1, steps // evaluations) if evaluations else steps + 1
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        rows = loss(batch())["loss_actor"]
        (rows.sum() / rows.shape[1]).backward()  # a mean over states, a sum over policies
        optimizer.step()
        decay.step()
        if step % every == 0:
            yield step
