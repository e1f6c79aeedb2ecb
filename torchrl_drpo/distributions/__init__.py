"""Action distributions for catalogues and semantic IDs."""

from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK

__all__ = ["CatalogueCategorical", "TopK"]
