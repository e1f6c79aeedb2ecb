"""A policy over a catalogue of items, as a TorchRL actor.

The item table is a parameter of the actor and the distribution reads it *when it is built*: the
actor's ``distribution_class`` is a bound method of the module that owns the table. So functional
parameters, ``torch.vmap`` over an ensemble, deep copies and state dicts all see the right table,
and no ``[N, V, D]`` expansion of it ever enters a tensordict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributed.ranks import names_of_shards
from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.policies.encoders import (
    EncoderConfig,
    HistoryEncoder,
    HistoryReader,
    Pooling,
    item_actor,
)
from torchrl_drpo.policies.encoders.config import encoder_config
from torchrl_drpo.policies.item_tables import ItemTableConfig, ItemTableKind, make_item_table

if TYPE_CHECKING:
    from torchrl_drpo.distributed.categorical import ShardedCatalogueCategorical
    from torchrl_drpo.distributed.group import Over
    from torchrl_drpo.distributed.items import ItemShards


class CataloguePolicy(HistoryReader):
    """Encoder and item table: ``forward`` gives the state, ``distribution`` the policy at it.

    See :func:`make_catalogue_actor` for the arguments.

    Attributes:
        num_items: size ``V`` of the catalogue.
        items: item embeddings of the softmax, parameter ``[V, D]``; this rank's rows of it where
            the table is sharded, and so for ``bias`` and ``history_items``. ``None`` where item
            vectors are made of codes or features: ask :meth:`item_vectors`.
        item_table: what makes them then, an :class:`~torchrl_drpo.policies.item_tables.ItemCodes`
            or :class:`~torchrl_drpo.policies.item_tables.ItemFeatures`; else ``None``.
        bias: one logit an item (what is popular with everyone), parameter ``[V]``, or ``None``.
        history_items: the embeddings that histories look up, where they are not ``items`` itself.
        shards: which rank holds which items; ``None`` where every process has the whole table.
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
        num_features: int = 0,
        device: torch.device | str | None = None,
        mesh: Over | None = None,
        encoder: EncoderConfig | Mapping[str, Any] | None = None,
        item_table: ItemTableKind | ItemTableConfig | Mapping[str, Any] = "ids",
        item_data: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {num_items}")
        made = ItemTableConfig.of(item_table, item_data, num_items)
        _check_item_table(made, tied=tie_embeddings, sharded=mesh is not None)
        self.num_items = num_items
        self.shards = None if mesh is None else _shards(mesh, num_items)
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.encoder = HistoryEncoder(
            dim,
            history,
            context_sizes=context_sizes,
            num_features=num_features,
            device=device,
            config=encoder_config(encoder, tuple(hidden), pooling),
        )
        own = self._table(num_items, dim, device=device) if made.kind == "ids" else None
        self.register_parameter("items", own)
        self.item_table = make_item_table(made, num_items, dim, item_data, device)
        self.register_parameter("bias", self._table(num_items, device=device) if bias else None)
        self.register_parameter(
            "history_items", None if tie_embeddings else self._table(num_items, dim, device=device)
        )
        self.reset_parameters()

    def _table(self, num_items: int, *width: int, device: torch.device | str | None) -> Any:
        if self.shards is not None:
            return self.shards.parameter(*width, device=device)
        return nn.Parameter(torch.empty(num_items, *width, device=device))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the tables anew; the encoder does so itself."""
        for table in (self.items, self.history_items):  # item_table does so itself
            if table is None:
                continue
            std = table.shape[1] ** -0.5  # rows of about unit length: logits start near 0
            if self.shards is None:
                table.copy_(torch.randn_like(table) * std)
            else:
                self.shards.fill_normal_(table, self.shards.shared_seed(), std)
        if self.bias is not None:
            self.bias.zero_()

    def embed(self, item: Tensor) -> Tensor:
        """What a history's items say, ``[*, D]``."""
        if self.item_table is not None and item.numel() < self.num_items:
            return self.item_table(item)
        table = self.item_vectors() if self.history_items is None else self.history_items
        if self.shards is None:
            return F.embedding(item, table)
        return self.shards.look_up(table, item)

    def item_vectors(self) -> Tensor:
        """The item vectors of the softmax as they are now, ``[V, D]``, differentiable."""
        return self.items if self.item_table is None else self.item_table()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel leaves alone: a rank's own rows of the table."""
        return names_of_shards(self)

    def distribution(self, hidden: Tensor) -> CatalogueCategorical | ShardedCatalogueCategorical:
        """The policy at states ``hidden [*B, D]``, over the item table as it is now."""
        if self.shards is not None:
            from torchrl_drpo.distributed.categorical import ShardedCatalogueCategorical

            return ShardedCatalogueCategorical(
                hidden, self.items, self.bias, self.temperature, shards=self.shards
            )
        return CatalogueCategorical(
            hidden, self.item_vectors(), bias=self.bias, temperature=self.temperature
        )


def _check_item_table(made: ItemTableConfig, *, tied: bool, sharded: bool) -> None:
    if made.kind == "ids":
        return
    if not tied:
        raise ValueError(
            f"item_table={made.kind!r} gives histories and the softmax one table; leave "
            "tie_embeddings=False out"
        )
    if sharded:
        raise ValueError(
            f"item_table={made.kind!r} makes every item's vector on every rank, so its table is "
            "not shared out; leave mesh out"
        )


def _shards(mesh: Over, num_items: int) -> ItemShards:
    from torchrl_drpo.distributed.group import Ranks  # not every torch has ranks
    from torchrl_drpo.distributed.items import ItemShards

    return ItemShards(Ranks(mesh), num_items)


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
    num_features: int = 0,
    history_key: NestedKey = ("observation", "history"),
    context_key: NestedKey = ("observation", "context"),
    features_key: NestedKey = ("observation", "features"),
    times_key: NestedKey = ("observation", "history_time"),
    feedback_key: NestedKey = ("observation", "history_feedback"),
    device: torch.device | str | None = None,
    mesh: Over | None = None,
    encoder: EncoderConfig | Mapping[str, Any] | None = None,
    item_table: ItemTableKind | ItemTableConfig | Mapping[str, Any] = "ids",
    item_data: Tensor | None = None,
) -> ProbabilisticActor:
    """A softmax policy over ``num_items`` items, from a user's recent items and the situation.

    Reads the history (int64 ``[*B, L]`` item indices, oldest first, -1 on the left for padding),
    with ``context_sizes`` the context (int64 ``[*B, C]``) and with ``num_features`` the features
    (raw numbers, ``[*B, F]``); writes ``hidden [*B, D]`` and ``action`` (int64 ``[*B]``: the most
    probable item, or a sample under
    ``set_exploration_type(ExplorationType.RANDOM)``). ``actor.get_dist(td)`` is a
    :class:`~torchrl_drpo.CatalogueCategorical`.

    Args:
        num_items: size ``V`` of the catalogue.
        dim: width ``D`` of states and item embeddings.
        history: longest history ``L`` that will be given.
        context_sizes: number of values of each context column; empty for no context.
        hidden: widths of the encoder's hidden layers; short for ``EncoderConfig(hidden=...)``.
        pooling: how a history becomes one vector: ``"mean"``, ``"recency"`` or ``"attention"``;
            short for ``EncoderConfig(pooling=...)``.
        bias: whether each item has a logit of its own.
        temperature: divides the logits; above 0.
        tie_embeddings: whether histories and the softmax share one item table.
        num_features: number ``F`` of numeric features; 0 for none. They are read in standard
            units, so give ``catalogue_policy(actor).encoder.scaler.fit_`` the moments of the
            training rows before training.
        history_key: where the history lies in the tensordict.
        context_key: where the context lies, read only with ``context_sizes``.
        features_key: where the features lie, read only with ``num_features``.
        times_key: where the times of the history's rows lie (int64 ``[*B, L]``), read only where
            the encoder reads times.
        feedback_key: where their quality lies (``[*B, L]``), read only where the encoder reads
            feedback.
        device: where the parameters live.
        mesh: the ranks that share out the item tables among them, a device mesh (of one
            dimension) or a process group: each holds the rows of its own items alone, and
            ``get_dist`` gives a
            :class:`~torchrl_drpo.distributed.categorical.ShardedCatalogueCategorical`. Every
            rank must call the actor and its distributions in the same order. Give DDP the loss or
            the actor, which leaves the tables alone, or ``fully_shard`` the encoder
            (``catalogue_policy(actor).encoder``), never the tables.
        encoder: what reads histories: pooling, a GRU or a transformer, an
            :class:`~torchrl_drpo.policies.EncoderConfig` or one as a mapping (a checkpoint's).
        item_table: what item vectors are: ``"ids"``, learned for each item from the rows that show
            it; ``"codes"``, the sum of vectors of its codes; ``"features"``, a projection of its
            features or embedding. The latter two give items that no row shows a vector, too, for
            histories and for the softmax. An :class:`~torchrl_drpo.policies.ItemTableConfig` says
            more: hidden layers, and whether each item's own vector is added.
        item_data: of ``"codes"``: integers ``[V, T]``, -1 for none; of ``"features"``: finite
            numbers ``[V, F]``, a row of zeros where nothing is known. Kept in the state dict.

    Returns:
        The actor, for any TorchRL loss, collector or buffer.

    Raises:
        ValueError: if a size is below 1 (``num_features``: below 0), the temperature is not
            positive, the pooling unknown, or the items' data does not fit the item table.

    Example:
        >>> from tensordict import TensorDict
        >>> actor = make_catalogue_actor(1_000, dim=16, history=3)
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 7, 42]])}}, [1])
        >>> actor.get_dist(td).log_prob(torch.tensor([7])).shape
        torch.Size([1])
        >>> actor(td)["action"].shape
        torch.Size([1])
        >>> transformer = EncoderConfig("transformer", layers=2, heads=2)
        >>> actor = make_catalogue_actor(1_000, dim=16, history=3, encoder=transformer)
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
        num_features=num_features,
        device=device,
        mesh=mesh,
        encoder=encoder,
        item_table=item_table,
        item_data=item_data,
    )
    actor = item_actor(
        policy,
        context_sizes,
        num_features,
        history=history_key,
        context=context_key,
        features=features_key,
        times=times_key,
        feedback=feedback_key,
    )
    if mesh is not None:
        actor._ddp_params_and_buffers_to_ignore = names_of_shards(actor)
    return actor


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
