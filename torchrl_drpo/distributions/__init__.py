"""Action distributions for catalogues, slates and semantic IDs."""

from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK
from torchrl_drpo.distributions.plackett_luce import PlackettLuce
from torchrl_drpo.distributions.sampled import SampledCatalogueCategorical, draw_negatives
from torchrl_drpo.distributions.semantic_id import SemanticIDCategorical

__all__ = [
    "CatalogueCategorical",
    "PlackettLuce",
    "SampledCatalogueCategorical",
    "SemanticIDCategorical",
    "TopK",
    "draw_negatives",
]
