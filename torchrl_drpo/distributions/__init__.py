"""Action distributions for catalogues, slates and semantic IDs."""

from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK
from torchrl_drpo.distributions.code_trie import CodeTrie, SearchedTopK, TrieCategorical
from torchrl_drpo.distributions.plackett_luce import PlackettLuce
from torchrl_drpo.distributions.sampled import SampledCatalogueCategorical, draw_negatives
from torchrl_drpo.distributions.semantic_id import SemanticIDCategorical

__all__ = [
    "CatalogueCategorical",
    "CodeTrie",
    "PlackettLuce",
    "SampledCatalogueCategorical",
    "SearchedTopK",
    "SemanticIDCategorical",
    "TopK",
    "TrieCategorical",
    "draw_negatives",
]
