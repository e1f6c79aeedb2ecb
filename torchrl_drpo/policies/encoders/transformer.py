"""Causal attention among a history's items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.functional.host import under_functorch
from torchrl_drpo.policies.encoders.pooling import check_length

#: Powers of two of the ticks between two items: int64 has no more.
_TIME_BUCKETS = 64


class HistoryTransformer(nn.Module):
    r"""Causal self-attention over a history, behind a start vector that every place may look at.

    Layers are pre-norm: :math:`x + \mathrm{attention}(\mathrm{norm}(x))`, then
    :math:`x + \mathrm{feedforward}(\mathrm{norm}(x))`; the output is normed. The score of place
    ``i`` for ``j <= i`` is :math:`q_i^\top k_j / \sqrt{d} + p_{i - j}` with a number ``p`` learned
    for each distance and head, and with times :math:`+\, t_b`, a number learned for each bucket
    :math:`b = \lfloor \log_2(1 + |\tau_i - \tau_j|) \rfloor`. Positions are relative (Shaw,
    Uszkoreit and Vaswani 2018, arXiv 1803.02155; Raffel et al. 2020, arXiv 1910.10683), so the
    same items mean the same wherever a window starts, and one pass over a sequence gives the
    states of all its places.

    Args:
        dim: width ``D`` of what comes in and goes out.
        length: longest history that will be given.
        width: inside; the heads share it out.
        layers: number of layers.
        heads: of each layer.
        expansion: inner width of the feed-forward layers over ``width``.
        dropout: of attention and branches, in training.
        times: whether the times between items are read.
        device: where the parameters live.

    Examples:
        >>> transformer = HistoryTransformer(8, 5, width=8, heads=2)
        >>> transformer(torch.randn(3, 5, 8)).shape
        torch.Size([3, 6, 8])
        >>> transformer(torch.randn(3, 5, 8), last=torch.tensor([0, 5, 2])).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        width: int,
        layers: int = 2,
        heads: int = 2,
        expansion: int = 4,
        dropout: float = 0.0,
        times: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.length = length
        self.start = nn.Parameter(torch.empty(width, device=device))
        self.position = nn.Parameter(torch.empty(heads, length + 1, device=device))
        apart = nn.Parameter(torch.empty(heads, _TIME_BUCKETS, device=device)) if times else None
        self.register_parameter("apart", apart)
        self.enter = None if width == dim else nn.Linear(dim, width, device=device)
        self.blocks = nn.ModuleList(
            _Block(width, heads, expansion * width, dropout, device) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, device=device)
        self.leave = None if width == dim else nn.Linear(width, dim, device=device)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the start vector anew, makes all distances alike; layers do so themselves."""
        self.start.normal_()
        self.position.zero_()
        if self.apart is not None:
            self.apart.zero_()

    def forward(
        self, embedded: Tensor, times: Tensor | None = None, last: Tensor | None = None
    ) -> Tensor:
        """The states after the first 0, 1, ..., L items.

        Args:
            embedded: ``[B, L, D]``, in order; what follows an item does not change its state.
            times: when each happened, int64 ticks ``[B, L]``; with ``times=True`` alone.
            last: how many items each row's one wanted state has seen, int64 ``[B]``: the last
                layer then computes no other.

        Returns:
            Shape ``[B, L + 1, D]``, or ``[B, D]`` with ``last``.
        """
        check_length(embedded.shape[1], self.length)
        x = embedded if self.enter is None else self.enter(embedded)
        x = torch.cat([self.start.expand(x.shape[0], 1, -1), x], 1)
        bias = self._bias(x.shape[1], times).to(x.dtype)
        for block in self.blocks[:-1]:
            x = block(x, bias)
        x = self.norm(self.blocks[-1](x, bias, last))
        x = x if self.leave is None else self.leave(x)
        return x if last is None else x.squeeze(1)

    def _bias(self, size: int, times: Tensor | None) -> Tensor:
        """What is added to the scores, ``[1 or B, heads, S, S]``; ``-inf`` of what comes later."""
        place = torch.arange(size, device=self.position.device)
        behind = place.unsqueeze(1) - place
        bias = self.position[:, behind.clamp_min(0)].unsqueeze(0)
        if self.apart is not None:
            if times is None:
                raise ValueError("this encoder reads times; give when each item happened")
            gap = (times.unsqueeze(2) - times.unsqueeze(1)).abs()
            between = self.apart[:, _bucket(gap).clamp_max(_TIME_BUCKETS - 1).long()]
            bias = bias + F.pad(between, (1, 0, 1, 0)).movedim(0, 1)  # the start has no time
        elif times is not None:
            raise ValueError("this encoder reads no times; make it with times=True")
        return bias.masked_fill(behind < 0, -torch.inf)


def _bucket(gap: Tensor) -> Tensor:
    """The whole part of ``log2(1 + gap)``."""
    if torch.compiler.is_exporting():  # not every runtime has frexp
        limits = torch.tensor([2**power - 1 for power in range(1, 64)], device=gap.device)
        return (gap.unsqueeze(-1) >= limits).sum(-1)
    _, exponent = torch.frexp(gap.double() + 1.0)  # 1 + gap lies in [2^(e - 1), 2^e)
    return exponent - 1


class _Block(nn.Module):
    """Attention and a feed-forward layer, each a branch beside the stream."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention = nn.LayerNorm(width, device=device)
        self.query = nn.Linear(width, width, device=device)
        self.key_value = nn.Linear(width, 2 * width, device=device)
        self.mix = nn.Linear(width, width, device=device)
        self.norm_feedforward = nn.LayerNorm(width, device=device)
        self.widen = nn.Linear(width, inner, device=device)
        self.narrow = nn.Linear(inner, width, device=device)

    def forward(self, x: Tensor, bias: Tensor, last: Tensor | None = None) -> Tensor:
        """``x [B, S, W]`` after this layer; of the places ``last [B]`` alone: ``[B, 1, W]``."""
        normed = self.norm_attention(x)
        asking = normed
        if last is not None:
            place = last.view(-1, 1, 1).expand(-1, 1, x.shape[2])
            asking = normed.gather(1, place)
            bias = bias.expand(x.shape[0], *bias.shape[1:])
            place_of_bias = last.view(-1, 1, 1, 1).expand(-1, bias.shape[1], 1, bias.shape[3])
            bias, x = bias.gather(2, place_of_bias), x.gather(1, place)
        key, value = self._by_head(self.key_value(normed)).chunk(2, -1)
        attended = self._attend(self._by_head(self.query(asking)), key, value, bias)
        x = x + self._dropped(self.mix(attended.transpose(1, 2).flatten(2)))
        inner = F.gelu(self.widen(self.norm_feedforward(x)))
        return x + self._dropped(self.narrow(inner))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        if under_functorch():  # torch would take a kernel that has no gradient of the bias
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
            return self._dropped(scores.softmax(-1)) @ value
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, bias, dropout)

    def _by_head(self, x: Tensor) -> Tensor:
        """``[B, S, H * d]`` as ``[B, H, S, d]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
