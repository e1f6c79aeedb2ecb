"""A causal language model that writes semantic IDs: Hugging Face's models as a decoder of codes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torchrl_drpo.policies.semantic_id.decoders import of_parents


class LanguageModelDecoder(nn.Module):
    """Any causal language model of Hugging Face over code tokens, as a head of a generative policy.

    Needs the extra ``[llm]``. The policy's encoder reads the history; what it makes of it stands
    before the codes as ``prefix`` embeddings, which a linear layer makes of the state. A code is a
    token of the model's vocabulary, level after level: ``first_token`` is code 0 of level 0. Keys
    and values of a prefix are kept and go on with the beams that grow from it, so that a list costs
    T steps of one token. The trie is what decides which codes may follow, as with every head: the
    model never writes what no item carries, and every loss trains it.

    ``make_semantic_id_actor(codes, head=decoder, dim=dim)`` makes the actor. A pretrained model
    needs room for the codes first (``model.resize_token_embeddings``). Checkpoints of ``drpo
    train`` have no room for such a model: save the actor's state dict yourself.

    Args:
        model: takes ``input_ids``, ``inputs_embeds``, ``use_cache`` and a cache of keys and values
            (``cache``, in older releases ``past_key_values``), which it gives back beside
            ``logits``.
        sizes: number of codes of each level, :attr:`CodeTrie.sizes`.
        dim: width D of the policy's states.
        prefix: number of embeddings that a state becomes, at least 1.
        first_token: the first code's token; by default the codes are the vocabulary's last tokens.

    Raises:
        ValueError: if the vocabulary has no room for the codes, or ``prefix`` is below 1.

    Examples:
        >>> import pytest, torch
        >>> transformers = pytest.importorskip("transformers", exc_type=ImportError)
        >>> from torchrl_drpo.distributions.code_trie import CodeTrie
        >>> from torchrl_drpo.policies.semantic_id import make_semantic_id_actor
        >>> codes = torch.tensor([[0, 0], [0, 1], [1, 0]])
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=4, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        ...     num_attention_heads=2, bos_token_id=None, eos_token_id=None)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> decoder = LanguageModelDecoder(model, CodeTrie(codes).sizes, dim=8)
        >>> actor = make_semantic_id_actor(codes, head=decoder, dim=8, history=3)
        >>> from tensordict import TensorDict
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 2, 1]])}}, [1])
        >>> actor.get_dist(td).topk(3).values.exp().sum().round(decimals=4)
        tensor(1.)
    """

    def __init__(
        self,
        model: nn.Module,
        sizes: Sequence[int],
        dim: int,
        *,
        prefix: int = 1,
        first_token: int | None = None,
    ) -> None:
        super().__init__()
        if prefix < 1:
            raise ValueError(f"prefix must be at least 1 embedding, got {prefix}")
        table = model.get_input_embeddings().weight
        room, needed = table.shape[0], sum(sizes)
        first = room - needed if first_token is None else first_token
        if first < 0 or first + needed > room:
            raise ValueError(
                f"{needed} codes from token {first} do not fit into a vocabulary of {room} tokens; "
                "give the model more (resize_token_embeddings)"
            )
        self.model, self.prefix = model, prefix
        named = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in named else "past_key_values"  # as of 2026, and before
        self.sizes, self._first = tuple(sizes), _starts(first, sizes)
        self.project = nn.Linear(dim, prefix * table.shape[1])

    def start(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The memory of the states' own places."""
        table = self.model.get_input_embeddings().weight
        entry = self.project(hidden).unflatten(-1, (self.prefix, -1)).to(table.dtype)
        return self._through(1, inputs_embeds=entry)

    def logits(self, memory: tuple[Tensor, ...], level: int) -> Tensor:
        """``[N, K, C]``: those of the level's tokens."""
        begin = self._first[level]
        return memory[0][..., begin : begin + self.sizes[level]]

    def advance(
        self, memory: tuple[Tensor, ...], parent: Tensor, code: Tensor, level: int
    ) -> tuple[Tensor, ...]:
        """The memory with the code's place at the end; keys and values follow their beams."""
        from transformers import DynamicCache

        cache = DynamicCache()
        kept = [of_parents(each, parent).flatten(0, 1) for each in memory[1:]]
        for layer in range(len(kept) // 2):
            cache.update(kept[2 * layer], kept[2 * layer + 1], layer)
        token = (code + self._first[level]).reshape(-1, 1)
        return self._through(code.shape[1], input_ids=token, **{self._cache: cache})

    def _through(self, prefixes: int, **inputs: Any) -> tuple[Tensor, ...]:
        """Logits of the last place ``[N, K, vocabulary]``, then keys and values of each layer."""
        out = self.model(**inputs, use_cache=True)
        cache = out.get(self._cache)
        if cache is None:
            raise ValueError(
                "the language model gave no keys and values; switch gradient checkpointing off"
            )
        tensors = [out.logits[:, -1]]
        for layer in cache.layers:
            tensors += [layer.keys, layer.values]
        return tuple(each.unflatten(0, (-1, prefixes)) for each in tensors)


def _starts(first: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """The token of each level's code 0."""
    return tuple(first + sum(sizes[:level]) for level in range(len(sizes)))
