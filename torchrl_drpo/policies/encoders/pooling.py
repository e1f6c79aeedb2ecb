"""A history as a weighted mean of its items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_drpo.policies.encoders.config import Pooling


class HistoryPooling(nn.Module):
    r"""Weighted mean of a history's item embeddings, :math:`\sum_l \alpha_l e_l`.

    One formula, :math:`\alpha = \mathrm{softmax}(p_l + q^\top e_l / \sqrt D)` over the valid
    places, in three depths: ``"mean"`` has neither term, ``"recency"`` learns ``p`` (one number
    for the last item, one for the last but one, ...), ``"attention"`` learns ``q`` too. All start
    as the plain mean. An empty history gives a learned vector of its own, not NaN.

    Args:
        dim: width ``D`` of the embeddings.
        length: longest history that will be given.
        pooling: see above.
        device: where the parameters live.

    Raises:
        ValueError: if ``pooling`` is unknown, or ``dim`` or ``length`` is below 1.

    Example:
        >>> pool = HistoryPooling(2, length=3, pooling="mean")
        >>> embedded = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> pool(embedded, torch.tensor([[False, True, True]])).tolist()
        [[0.5, 0.5]]
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        pooling: Pooling = "recency",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "recency", "attention"):
            raise ValueError(f"pooling must be mean, recency or attention, got {pooling!r}")
        for name, value in (("dim", dim), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.length = length
        self.empty = nn.Parameter(torch.zeros(dim, device=device))
        recency = None if pooling == "mean" else nn.Parameter(torch.zeros(length, device=device))
        query = nn.Parameter(torch.zeros(dim, device=device)) if pooling == "attention" else None
        self.register_parameter("recency", recency)
        self.register_parameter("query", query)

    def reset_parameters(self) -> None:
        """Makes all places and items count alike, as at first."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Pools ``embedded [*B, L, D]`` where ``mask [*B, L]`` is true; gives ``[*B, D]``."""
        length = mask.shape[-1]
        check_length(length, self.length)
        score = torch.zeros_like(mask, dtype=embedded.dtype)
        if self.recency is not None:
            score = score + self.recency[self.length - length :]  # the last place is the latest
        if self.query is not None:
            score = score + embedded @ self.query / embedded.shape[-1] ** 0.5
        # A finite floor keeps the softmax of an empty history finite; its weights are zeroed next.
        weight = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask
        pooled = (weight.unsqueeze(-2) @ embedded).squeeze(-2)
        return torch.where(mask.any(-1, keepdim=True), pooled, self.empty)

    def places(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """What :meth:`forward` gives of the first 0, 1, ..., L items.

        Args:
            embedded: ``[*B, L, D]``, the items that are there first.
            mask: which are there, bool ``[*B, L]``: a number of true, then false.

        Returns:
            Shape ``[*B, L + 1, D]``; those beyond the number of items are undefined.
        """
        length = mask.shape[-1]
        check_length(length, self.length)
        # Row k pools items 0 to k - 1; item j lies k - 1 - j places before its last one.
        behind = torch.arange(length + 1, device=mask.device).unsqueeze(1) - 1
        behind = behind - torch.arange(length, device=mask.device)
        score = embedded.new_zeros(length + 1, length)
        if self.recency is not None:
            score = score + self.recency.flip(0)[behind.clamp_min(0)]
        if self.query is not None:
            score = score + (embedded @ self.query / embedded.shape[-1] ** 0.5).unsqueeze(-2)
        there = behind >= 0
        weight = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(-1) * there
        first = torch.arange(length + 1, device=mask.device).unsqueeze(1) == 0
        return torch.where(first, self.empty, weight @ embedded)


def check_length(length: int, longest: int) -> None:
    """Raises ``ValueError`` for a history longer than the encoder was made for."""
    if length > longest:
        raise ValueError(
            f"histories of {length} items were given to an encoder made for {longest}; "
            f"read the log with history={longest} or make the actor with history={length}"
        )
