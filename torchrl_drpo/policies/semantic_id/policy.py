"""A policy over semantic IDs, as a TorchRL actor whose action is an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.policies.encoders import (
    EncoderConfig,
    HistoryEncoder,
    HistoryReader,
    Pooling,
    item_actor,
)
from torchrl_drpo.policies.encoders.config import encoder_config
from torchrl_drpo.policies.semantic_id.decoders import Head, make_decoder


class SemanticIDPolicy(HistoryReader):
    """Encoder, decoder and trie: ``forward`` gives the state, ``distribution`` the policy at it.

    See :func:`make_semantic_id_actor` for the arguments.

    Attributes:
        trie: the items' semantic IDs.
        decoder: from a state and a prefix to the logits of the next code.
        bias: one logit an item among those of its semantic ID, parameter ``[V]``; ``None`` where
            no two items share one.
        code_vectors: for each level, what a code adds to the embedding of a history's item.
        item_vectors: what an item itself adds, parameter ``[V, D]``, or ``None``.
    """

    def __init__(
        self,
        trie: CodeTrie,
        *,
        dim: int = 64,
        history: int = 20,
        context_sizes: Sequence[int] = (),
        hidden: Sequence[int] = (128,),
        pooling: Pooling = "recency",
        head: Head | nn.Module = "gru",
        item_bias: bool = True,
        temperature: float = 1.0,
        item_vectors: bool = True,
        num_features: int = 0,
        device: torch.device | str | None = None,
        encoder: EncoderConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.trie = trie
        self.encoder = HistoryEncoder(
            dim,
            history,
            context_sizes=context_sizes,
            num_features=num_features,
            device=device,
            config=encoder_config(encoder, tuple(hidden), pooling),
        )
        own_head = isinstance(head, nn.Module)
        self.decoder = head if own_head else make_decoder(head, trie.sizes, dim, device=device)
        items = trie.num_items
        bias = nn.Parameter(torch.empty(items, device=device)) if item_bias else None
        self.register_parameter("bias", bias)
        self.code_vectors = nn.ParameterList(
            torch.empty(size, dim, device=device) for size in trie.sizes
        )
        own = nn.Parameter(torch.empty(items, dim, device=device)) if item_vectors else None
        self.register_parameter("item_vectors", own)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the vectors of histories anew; encoder and decoder do so themselves."""
        tables = [*self.code_vectors, *([] if self.item_vectors is None else [self.item_vectors])]
        for table in tables:  # their sum is of about unit length
            nn.init.normal_(table, std=(table.shape[1] * len(tables)) ** -0.5)
        if self.bias is not None:
            self.bias.zero_()

    def embed(self, item: Tensor) -> Tensor:
        """What a history's items say, ``[*, D]``: the sum of their codes' vectors and their own."""
        path = self.trie.path(item)
        out = 0 if self.item_vectors is None else F.embedding(item, self.item_vectors)
        for level, table in enumerate(self.code_vectors):
            code = self.trie.code_of_each(level)[path[level]]
            out = out + F.embedding(code, table)
        return out

    def distribution(self, hidden: Tensor) -> TrieCategorical:
        """The policy at states ``hidden [*B, D]``."""
        return TrieCategorical(hidden, self.decoder, self.trie, self.bias, self.temperature)


def make_semantic_id_actor(
    codes: Tensor | None = None,
    *,
    num_items: int | None = None,
    code_sizes: Sequence[int] | None = None,
    dim: int = 64,
    history: int = 20,
    context_sizes: Sequence[int] = (),
    hidden: Sequence[int] = (128,),
    pooling: Pooling = "recency",
    head: Head | nn.Module = "gru",
    item_bias: bool = True,
    temperature: float = 1.0,
    item_vectors: bool = True,
    num_features: int = 0,
    history_key: NestedKey = ("observation", "history"),
    context_key: NestedKey = ("observation", "context"),
    features_key: NestedKey = ("observation", "features"),
    times_key: NestedKey = ("observation", "history_time"),
    feedback_key: NestedKey = ("observation", "history_feedback"),
    device: torch.device | str | None = None,
    encoder: EncoderConfig | Mapping[str, Any] | None = None,
) -> ProbabilisticActor:
    """A generative policy: it writes the semantic ID of an item, code by code.

    Reads what :func:`~torchrl_drpo.make_catalogue_actor` reads and writes what it writes: the
    action is an **item number**, whatever its codes are, so every loss, log and evaluation takes
    it as it is. ``actor.get_dist(td)`` is a
    :class:`~torchrl_drpo.distributions.code_trie.TrieCategorical`, whose ``topk`` is a constrained
    beam search. A row costs T small softmaxes instead of one over the catalogue.

    Args:
        codes: semantic ID of each item, coarsest code first, integers ``[V, T]``; a negative code
            ends an ID early. ``None`` leaves them to a state dict that will be loaded.
        num_items: V, where ``codes`` is ``None``.
        code_sizes: :attr:`CodeTrie.sizes`, where ``codes`` is ``None``.
        dim: width ``D`` of states and vectors.
        history: longest history ``L`` that will be given.
        context_sizes: number of values of each context column; empty for no context.
        hidden: widths of the encoder's hidden layers; short for ``EncoderConfig(hidden=...)``.
        pooling: how a history becomes one vector; short for ``EncoderConfig(pooling=...)``.
        head: ``"gru"``, ``"transformer"`` or ``"parallel"`` (levels that do not look at each
            other); or a :class:`~torchrl_drpo.distributions.code_trie.CodeDecoder` of your own,
            such as :class:`LanguageModelDecoder`, on ``device`` already.
        item_bias: whether items of one semantic ID have biases of their own; else they share
            its probability equally.
        temperature: divides the logits; above 0.
        item_vectors: whether an item of a history says something beyond its codes.
        num_features: number ``F`` of numeric features; 0 for none. Give
            ``semantic_id_policy(actor).encoder.scaler.fit_`` their moments before training.
        history_key: where the history lies in the tensordict.
        context_key: where the context lies, read only with ``context_sizes``.
        features_key: where the features lie, read only with ``num_features``.
        times_key: where the times of the history's rows lie, read only where the encoder reads
            times.
        feedback_key: where their quality lies, read only where the encoder reads feedback.
        device: where the parameters live.
        encoder: what reads histories: pooling, a GRU or a transformer; a mapping is a
            checkpoint's.

    Raises:
        ValueError: for codes that make no trie, or an argument out of range.

    Example:
        >>> from tensordict import TensorDict
        >>> codes = torch.tensor([[0, 0], [0, 1], [1, 0], [2, 1]])
        >>> actor = make_semantic_id_actor(codes, dim=16, history=3)
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 3, 1]])}}, [1])
        >>> actor.get_dist(td).topk(4).values.exp().sum().round(decimals=4)
        tensor(1.)
        >>> actor(td)["action"].shape
        torch.Size([1])
    """
    trie = CodeTrie(codes, num_items=num_items, sizes=code_sizes).to(device)
    policy = SemanticIDPolicy(
        trie,
        dim=dim,
        history=history,
        context_sizes=context_sizes,
        hidden=hidden,
        pooling=pooling,
        head=head,
        item_bias=item_bias,
        temperature=temperature,
        item_vectors=item_vectors,
        num_features=num_features,
        device=device,
        encoder=encoder,
    )
    return item_actor(
        policy,
        context_sizes,
        num_features,
        history=history_key,
        context=context_key,
        features=features_key,
        times=times_key,
        feedback=feedback_key,
    )


def semantic_id_policy(actor: nn.Module) -> SemanticIDPolicy:
    """The :class:`SemanticIDPolicy` inside an actor of :func:`make_semantic_id_actor`."""
    for module in actor.modules():
        if isinstance(module, SemanticIDPolicy):
            return module
    raise TypeError(f"expected an actor of make_semantic_id_actor, got {type(actor).__name__}")
