r"""A categorical over a catalogue whose normaliser is estimated from a few items.

    log p(a) ~ z_a - log( e^{z_a} + (1 - q_a) mean_{s != a} e^{z_s} / q_s ),    s ~ q

The logged item is always present, and negatives that hit it are left out, so they follow q given
that they are not a, and the sum estimates the normaliser Z without bias (the correction of the
positive: arXiv 2507.09331). Its logarithm is biased: by Jensen the log-probability is too high, by
about Var(Z^) / (2 Z^2), which falls as one over the number of negatives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

from torchrl_drpo.distributions._over_items import OverItems
from torchrl_drpo.distributions._parameters import check_parameters, of_one_type
from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK


class SampledCatalogueCategorical(OverItems):
    r"""``CatalogueCategorical`` with an estimated normaliser: for catalogues too large to sum over.

    ``log_prob`` costs ``S`` scores a row instead of ``V``, and is **biased upwards**. Of a policy
    with softmax weights p and negatives from q, the bias is about

    .. math:: \frac{1}{2 S} \Big(\sum_v \frac{p_v^2}{q_v} - 1\Big)

    (without the logged item's part, and while that is small): little where q resembles the policy,
    as popularity does early in training, much where the policy has learned items that q hardly
    draws. Measured on 100,000 items of Zipf popularity, D = 32, actions drawn from the policy:

    ==================================== ========== ================= =================
    policy                               q          S = 1,024         S = 4,096
                                                    bias (rms), nats  bias (rms), nats
    ==================================== ========== ================= =================
    early, mean entropy 7.9 nats         popularity .0003 (.010)      -.0001 (.005)
    early, mean entropy 7.9 nats         uniform    .41 (.48)         .25 (.37)
    trained, mean entropy 3.9 nats       popularity .43 (.86)         .21 (.62)
    trained, mean entropy 3.9 nats       uniform    .71 (1.22)        .45 (.92)
    ==================================== ========== ================= =================

    What reads log pi itself (surprisal tapers, the ratios of TOPR, GBPO and BPPO, KL estimates)
    reads the bias too. Nothing in this package falls back to this distribution. Everything but
    ``log_prob`` is exact, at the price of all ``V`` items.

    Args:
        hidden: states, ``[*B, D]``.
        items: item embeddings, ``[V, D]``.
        negatives: items drawn from q with replacement, shared by all rows, int64 ``[S]``;
            :func:`draw_negatives` draws them. Draw anew in every step.
        log_proposal: log q of each item, ``[V]``; ``exp`` of it adds up to 1.
        bias: score added to each item before the temperature, ``[V]``.
        temperature: a positive number.

    Raises:
        ValueError: for shapes that do not fit, or no negatives.

    Examples:
        >>> hidden, items = torch.zeros(2, 4), torch.randn(100, 4)
        >>> log_q = torch.full((100,), 0.01).log()
        >>> negatives = draw_negatives(log_q, 50, torch.Generator().manual_seed(0))
        >>> policy = SampledCatalogueCategorical(hidden, items, negatives, log_q)
        >>> policy.log_prob(torch.tensor([3, 7])).exp()  # equal scores: exact with any negatives
        tensor([0.0100, 0.0100])
    """

    def __init__(
        self,
        hidden: Tensor,
        items: Tensor,
        negatives: Tensor,
        log_proposal: Tensor,
        bias: Tensor | None = None,
        temperature: float = 1.0,
    ) -> None:
        hidden, items = of_one_type(hidden, items)
        check_parameters(hidden, items, bias, temperature)
        if negatives.ndim != 1 or negatives.numel() == 0 or negatives.is_floating_point():
            raise ValueError(
                f"negatives must be item indices of shape [S], S at least 1, got "
                f"{negatives.dtype} {tuple(negatives.shape)}"
            )
        if log_proposal.shape != items.shape[:1]:
            raise ValueError(
                f"log_proposal must have one entry an item, shape {tuple(items.shape[:1])}, got "
                f"{tuple(log_proposal.shape)}"
            )
        self.hidden, self.items, self.bias = hidden, items, bias
        self.negatives, self.log_proposal = negatives, log_proposal.detach()
        self.temperature = float(temperature)
        super().__init__(hidden.shape[:-1], validate_args=False)

    @property
    def exact(self) -> CatalogueCategorical:
        """The policy itself."""
        return CatalogueCategorical(self.hidden, self.items, self.bias, self.temperature)

    @property
    def num_items(self) -> int:
        """``V``, the size of the catalogue."""
        return int(self.items.shape[0])

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each row, exactly."""
        return self.exact.mode

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws items, exactly."""
        return self.exact.sample(sample_shape)

    def topk(self, k: int) -> TopK:
        """The likeliest items and their log-probabilities, exactly."""
        return self.exact.topk(k)

    def log_prob(self, value: Tensor) -> Tensor:
        """Estimated log-probability of one item a row, nats, shape ``[*B]``; see the class.

        Raises:
            ValueError: for another shape or, on the CPU, an item outside the catalogue.
        """
        if value.is_floating_point() or value.shape != self.batch_shape:
            raise ValueError(
                f"expected one item index a row, integers of shape {tuple(self.batch_shape)}, got "
                f"{value.dtype} {tuple(value.shape)}"
            )
        action = value.reshape(-1).long()
        self._check(action)
        dtype = accumulation_dtype(self.hidden.dtype)
        hidden = self.hidden.reshape(-1, self.hidden.shape[-1]).to(dtype)
        log_q = self.log_proposal.to(dtype)
        own = (hidden * F.embedding(action, self.items).to(dtype)).sum(-1)
        others = hidden @ F.embedding(self.negatives, self.items).to(dtype).T
        if self.bias is not None:
            bias = self.bias.to(dtype)
            own, others = own + bias[action], others + bias[self.negatives]
        own, others = own / self.temperature, others / self.temperature
        hit = action[:, None] == self.negatives
        weighed = (others - log_q[self.negatives]).masked_fill(hit, -torch.inf)
        left = (~hit).sum(1).clamp_min(1).to(dtype)
        rest = weighed.logsumexp(1) - left.log() + torch.log1p(-log_q[action].exp())
        # Where every negative hit the logged item there is no estimate of the rest: p is 1.
        whole = torch.logaddexp(own, rest.masked_fill(hit.all(1), -torch.inf))
        return (own - whole).reshape(self.batch_shape)

    def __repr__(self) -> str:
        return (
            f"SampledCatalogueCategorical(batch_shape: {tuple(self.batch_shape)}, items: "
            f"{self.num_items}, negatives: {len(self.negatives)})"
        )

    def _check(self, action: Tensor) -> None:
        if not action.is_cpu or action.numel() == 0:
            return
        low, high = action.aminmax()
        if low < 0 or high >= self.num_items:
            bad = (low if low < 0 else high).item()
            raise ValueError(
                f"action must lie in [0, {self.num_items}) but holds {bad}; map raw ids to "
                "catalogue indices first"
            )


def draw_negatives(
    log_proposal: Tensor, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """Items drawn from q with replacement, int64 ``[count]``; exact for any number of items.

    >>> draw_negatives(torch.tensor([0.0, -torch.inf]), 3, torch.Generator().manual_seed(0))
    tensor([0, 0, 0])
    """
    cumulative = log_proposal.detach().double().exp().cumsum(0)
    uniform = torch.rand(
        count, dtype=torch.float64, device=log_proposal.device, generator=generator
    )
    drawn = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return drawn.clamp_max(len(log_proposal) - 1)
