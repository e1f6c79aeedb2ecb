"""A policy over a catalogue of items, as a TorchRL actor.

The item table is a parameter of the actor and the distribution reads it *when it is built*: the
actor's ``distribution_class`` is a bound method of the module that owns the table. So functional
parameters, ``torch.vmap`` over an ensemble, deep copies and state dicts all see the right table,
and no ``[N, V, D]`` expansion of it ever enters a tensordict.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.policies.encoders import HistoryEncoder, Pooling


class CataloguePolicy(nn.Module):
    """Encoder and item table: ``forward`` gives the state, ``distribution`` the policy at it.

    See :func:`make_catalogue_actor` for the arguments.

    Attributes:
        items: item embeddings of the softmax, parameter ``[V, D]``.
        bias: one logit an item (what is popular with everyone), parameter ``[V]``, or ``None``.
        history_items: the embeddings that histories look up, where they are not ``items`` itself.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        history: int = 20,
        context_sizes: Sequence[int] = (),
        hidden: Sequence[int] = (128,),
        pooling: Pooling = "recency",
        bias: bool = True,
        temperature: float = 1.0,
        tie_embeddings: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {num_items}")
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.encoder = HistoryEncoder(
            dim, history, context_sizes=context_sizes, hidden=hidden, pooling=pooling, device=device
        )
        self.items = _item_table(num_items, dim, device)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(num_items, device=device)) if bias else None
        )
        self.register_parameter(
            "history_items", None if tie_embeddings else _item_table(num_items, dim, device)
        )

    def forward(self, history: Tensor, context: Tensor | None = None) -> Tensor:
        """The state ``[*B, D]`` after ``history [*B, L]`` (-1 pads) in ``context [*B, C]``."""
        table = self.items if self.history_items is None else self.history_items
        embedded = F.embedding(history.clamp(min=0), table)
        return self.encoder(embedded, history >= 0, context)

    def distribution(self, hidden: Tensor) -> CatalogueCategorical:
        """The policy at states ``hidden [*B, D]``, over the item table as it is now."""
        return CatalogueCategorical(
            hidden, self.items, bias=self.bias, temperature=self.temperature
        )


def make_catalogue_actor(
    num_items: int,
    *,
    dim: int = 64,
    history: int = 20,
    context_sizes: Sequence[int] = (),
    hidden: Sequence[int] = (128,),
    pooling: Pooling = "recency",
    bias: bool = True,
    temperature: float = 1.0,
    tie_embeddings: bool = True,
    history_key: NestedKey = ("observation", "history"),
    context_key: NestedKey = ("observation", "context"),
    device: torch.device | str | None = None,
) -> ProbabilisticActor:
    """A softmax policy over ``num_items`` items, from a user's recent items and the context.

    Reads the history (int64 ``[*B, L]`` item indices, oldest first, -1 on the left for padding)
    and, with ``context_sizes``, the context (int64 ``[*B, C]``); writes ``hidden [*B, D]`` and
    ``action`` (int64 ``[*B]``: the most probable item, or a sample under
    ``set_exploration_type(ExplorationType.RANDOM)``). ``actor.get_dist(td)`` is a
    :class:`~torchrl_drpo.CatalogueCategorical`.

    Args:
        num_items: size ``V`` of the catalogue.
        dim: width ``D`` of states and item embeddings.
        history: longest history ``L`` that will be given.
        context_sizes: number of values of each context column; empty for no context.
        hidden: widths of the encoder's hidden layers.
        pooling: how a history becomes one vector: ``"mean"``, ``"recency"`` or ``"attention"``.
        bias: whether each item has a logit of its own.
        temperature: divides the logits; above 0.
        tie_embeddings: whether histories and the softmax share one item table.
        history_key: where the history lies in the tensordict.
        context_key: where the context lies, read only with ``context_sizes``.
        device: where the parameters live.

    Returns:
        The actor, for any TorchRL loss, collector or buffer.

    Raises:
        ValueError: if a size is below 1, the temperature is not positive or the pooling unknown.

    Example:
        >>> from tensordict import TensorDict
        >>> actor = make_catalogue_actor(1_000, dim=16, history=3)
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 7, 42]])}}, [1])
        >>> actor.get_dist(td).log_prob(torch.tensor([7])).shape
        torch.Size([1])
        >>> actor(td)["action"].shape
        torch.Size([1])
    """
    policy = CataloguePolicy(
        num_items,
        dim=dim,
        history=history,
        context_sizes=context_sizes,
        hidden=hidden,
        pooling=pooling,
        bias=bias,
        temperature=temperature,
        tie_embeddings=tie_embeddings,
        device=device,
    )
    in_keys = [history_key, context_key] if context_sizes else [history_key]
    return ProbabilisticActor(
        TensorDictModule(policy, in_keys=in_keys, out_keys=["hidden"]),
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=policy.distribution,
    )


def catalogue_policy(actor: nn.Module) -> CataloguePolicy:
    """The :class:`CataloguePolicy` inside an actor of :func:`make_catalogue_actor`.

    Example:
        >>> catalogue_policy(make_catalogue_actor(10, dim=4)).items.shape
        torch.Size([10, 4])
    """
    for module in actor.modules():
        if isinstance(module, CataloguePolicy):
            return module
    raise TypeError(f"expected an actor of make_catalogue_actor, got {type(actor).__name__}")


def _item_table(num_items: int, dim: int, device: torch.device | str | None) -> nn.Parameter:
    # Rows of about unit length: logits start near 0 whatever the width is.
    return nn.Parameter(torch.randn(num_items, dim, device=device) * dim**-0.5)
