"""A history read item by item."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.functional.host import under_functorch


class HistoryGRU(nn.Module):
    """Gated recurrent units over a history; the state before the first item is learned.

    The arithmetic is :class:`torch.nn.GRU`'s. Its module is not used: it keeps a second list of
    its weights, which functional parameters (``loss.actor_network_params``) do not reach, so a
    loss would train weights that the policy does not read.

    Args:
        dim: width ``D`` of what comes in and goes out.
        width: of the recurrent state.
        layers: number of layers.
        dropout: between layers, in training.
        device: where the parameters live.

    Examples:
        >>> gru = HistoryGRU(8, width=16, layers=2)
        >>> gru(torch.randn(3, 5, 8)).shape
        torch.Size([3, 6, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int,
        layers: int = 1,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.width, self.layers, self.dropout = width, layers, dropout
        self.start = nn.Parameter(torch.empty(layers, width, device=device))
        for layer in range(layers):
            for name, columns in (("weight_ih", width if layer else dim), ("weight_hh", width)):
                weight = torch.empty(3 * width, columns, device=device)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(weight))
            for name in ("bias_ih", "bias_hh"):
                bias = torch.empty(3 * width, device=device)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(bias))
        self.leave = nn.Linear(width, dim, device=device)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all weights anew, evenly within one over the root of the width, as torch does."""
        for parameter in self.parameters(recurse=False):
            parameter.uniform_(-(self.width**-0.5), self.width**-0.5)

    def forward(self, embedded: Tensor) -> Tensor:
        """The states after the first 0, 1, ..., L items.

        Args:
            embedded: ``[B, L, D]``, in order; what follows an item does not change its state.

        Returns:
            Shape ``[B, L + 1, D]``.
        """
        batch = embedded.shape[0]  # of len() an exported graph would make a constant
        begin = self.start.unsqueeze(1).expand(-1, batch, -1).contiguous()
        first = begin[-1].unsqueeze(1)
        if not embedded.numel():
            return self.leave(first.expand(-1, embedded.shape[1] + 1, -1))
        weights = [
            getattr(self, f"{name}_l{layer}")
            for layer in range(self.layers)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        if under_functorch():  # torch.gru has no batching rule
            outputs = self._step_by_step(embedded, begin)
        else:
            options = (True, self.layers, self.dropout, self.training, False, True)
            outputs, _ = torch.gru(embedded, begin, weights, *options)
        return self.leave(torch.cat([first, outputs], 1))

    def _step_by_step(self, inputs: Tensor, begin: Tensor) -> Tensor:
        for layer in range(self.layers):
            w_ih, w_hh, b_ih, b_hh = (
                getattr(self, f"{name}_l{layer}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            state, states = begin[layer], []
            for given in F.linear(inputs, w_ih, b_ih).unbind(1):
                reset, update, new = given.chunk(3, -1)
                old_reset, old_update, old_new = F.linear(state, w_hh, b_hh).chunk(3, -1)
                gate = (update + old_update).sigmoid()
                new = (new + (reset + old_reset).sigmoid() * old_new).tanh()
                state = new + gate * (state - new)
                states.append(state)
            inputs = torch.stack(states, 1)
            if layer < self.layers - 1:
                inputs = F.dropout(inputs, self.dropout, self.training)
        return inputs
