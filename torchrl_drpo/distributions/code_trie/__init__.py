"""Semantic IDs as a trie, and the distribution over items that walks it."""

from torchrl_drpo.distributions.code_trie.categorical import TrieCategorical
from torchrl_drpo.distributions.code_trie.decoder import CodeDecoder
from torchrl_drpo.distributions.code_trie.search import SearchedTopK
from torchrl_drpo.distributions.code_trie.trie import Children, CodeTrie

__all__ = ["Children", "CodeDecoder", "CodeTrie", "SearchedTopK", "TrieCategorical"]
