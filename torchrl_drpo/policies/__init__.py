"""Actors, encoders and decoders."""

from torchrl_drpo.policies.catalogue import (
    CataloguePolicy,
    catalogue_policy,
    make_catalogue_actor,
)
from torchrl_drpo.policies.decoding import MIPSDecoder
from torchrl_drpo.policies.encoders import FeatureScaler, HistoryEncoder, HistoryPooling
from torchrl_drpo.policies.gaussian import make_gaussian_actor

__all__ = [
    "CataloguePolicy",
    "FeatureScaler",
    "HistoryEncoder",
    "HistoryPooling",
    "MIPSDecoder",
    "catalogue_policy",
    "make_catalogue_actor",
    "make_gaussian_actor",
]
