"""The catalogue policy of ``kuairand`` with its softmax in bfloat16: what a CPU trains fast.

    z = bfloat16(h) . bfloat16(E) + b        p = exp(z - shift) / sum        log p[a] = z[a] - lse

A CPU with bfloat16 instructions multiplies these matrices about 3 times as fast as in float32, and
they are most of a step: one of 256 rows over 7,583 items takes 17.5 ms of a core against 32.6 ms.
The ``[N, V]`` probabilities of a batch (4 MB) are kept for the backward pass. Sums and log-probs
are float32, and so are parameters, their gradients, Adam and every evaluation. That the results
are those of float32 is measured, not assumed: the cells ``precision`` train runs in both. A CPU
without such instructions multiplies bfloat16 several times slower than float32, so it is asked.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.policies.catalogue import CataloguePolicy, make_catalogue_actor

_HALF = torch.bfloat16


def fast_precision(device: str) -> str:
    """``"bfloat16"`` on a CPU with instructions for its products, ``"float32"`` elsewhere.

    An accelerator has kernels of its own. Of CPUs, those with AVX-512 BF16 are known to torch; a
    torch that cannot tell, or another kind of CPU, gets float32, which is right everywhere.
    """
    if torch.device(device).type != "cpu" or not torch.backends.mkldnn.is_available():
        return "float32"
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if has_instructions() else "float32"


class HalfCatalogueCategorical(CatalogueCategorical):
    """A :class:`~torchrl_drpo.CatalogueCategorical` whose ``log_prob`` multiplies in bfloat16.

    Args:
        hidden: states, float32 ``[*B, D]``.
        items: item embeddings, float32 ``[V, D]``.
        bias: one score an item, ``[V]``.
        temperature: divides the scores.

    Example:
        >>> hidden, items = torch.randn(4, 8), torch.randn(100, 8)
        >>> action = torch.tensor([3, 14, 15, 92])
        >>> half = HalfCatalogueCategorical(hidden, items, torch.zeros(100)).log_prob(action)
        >>> exact = CatalogueCategorical(hidden, items).log_prob(action)
        >>> bool(((half - exact).abs() < 0.1).all())
        True
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one item a row, in nats, float32, shape ``[*B]``."""
        self._validate_sample(value)
        hidden = self.hidden.reshape(-1, self.hidden.shape[-1]) / self.temperature
        bias = self.items.new_zeros(self.num_items) if self.bias is None else self.bias
        flat = _HalfLogProb.apply(hidden, self.items, bias / self.temperature, value.reshape(-1))
        return flat.reshape(value.shape)


class _HalfLogProb(torch.autograd.Function):
    """``log softmax(h E' + b)[a]`` and its gradients; see the module."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, bias: Tensor, action: Tensor) -> Tensor:
        # The bias is one more column: a product is faster than a product and a sum.
        h = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1).to(_HALF)
        table = torch.cat([items, bias[:, None]], 1).to(_HALF)
        score = h @ table.T
        shift = score.amax(1, keepdim=True)
        p = score.sub_(shift).exp_()  # in (0, 1], each within 0.4% of exp(score - shift)
        mass = p.sum(1, dtype=torch.float32)
        # The logged item's own score is taken in float32: no rounding enters its log-prob twice.
        own = (hidden * items[action]).sum(1) + bias[action]
        ctx.save_for_backward(h, table, p, mass, action)
        return own - shift[:, 0].float() - mass.log()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        h, table, p, mass, action = ctx.saved_tensors
        grad = grads[0]
        soft = (-grad / mass).unsqueeze(1)  # a row of p sends soft * p into its scores
        d_hidden = soft * (p @ table).float() + grad[:, None] * table[action].float()
        d_table = (p.T @ (soft * h.float()).to(_HALF)).float()
        d_table.index_add_(0, action, grad[:, None] * h.float())
        d_hidden, d_items = d_hidden[:, :-1], d_table[:, :-1].contiguous()
        return d_hidden, d_items, d_table[:, -1].contiguous(), None


class _HalfPolicy(CataloguePolicy):
    def distribution(self, hidden: Tensor) -> CatalogueCategorical:
        return HalfCatalogueCategorical(hidden, self.items, self.bias, self.temperature)


def make_actor(precision: str, device: str, **model: Any) -> ProbabilisticActor:
    """An actor as of :func:`~torchrl_drpo.make_catalogue_actor`.

    Args:
        precision: ``"float32"`` for that very actor, ``"bfloat16"`` for its softmax in bfloat16,
            ``"auto"`` for what :func:`fast_precision` says.
        device: where its parameters live.
        **model: ``num_items``, ``history``, ``context_sizes``, ...

    Raises:
        ValueError: for another precision.
    """
    if precision == "auto":
        precision = fast_precision(device)
    if precision == "float32":
        return make_catalogue_actor(**model, device=device)
    if precision != "bfloat16":
        raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16', got {precision!r}")
    policy = _HalfPolicy(**model, device=device)
    return ProbabilisticActor(
        TensorDictModule(
            policy,
            in_keys=[("observation", "history"), ("observation", "context")],
            out_keys=["hidden"],
        ),
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=policy.distribution,
    )
