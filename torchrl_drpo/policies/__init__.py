"""Actors, encoders and decoders."""

from torchrl_drpo.policies.catalogue import (
    CataloguePolicy,
    catalogue_policy,
    make_catalogue_actor,
)
from torchrl_drpo.policies.decoding import FaissDecoder, MIPSDecoder
from torchrl_drpo.policies.encoders import (
    EncoderConfig,
    FeatureScaler,
    HistoryEncoder,
    HistoryPooling,
    ObservationEncoder,
)
from torchrl_drpo.policies.gaussian import make_gaussian_actor
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.retrieval import (
    RetrievalPolicy,
    VectorRows,
    gaussian_actor,
    make_retrieval_actor,
    retrieval_policy,
)
from torchrl_drpo.policies.states import StateVector

__all__ = [
    "CataloguePolicy",
    "EncoderConfig",
    "FaissDecoder",
    "FeatureScaler",
    "HistoryEncoder",
    "HistoryPooling",
    "MIPSDecoder",
    "ObservationEncoder",
    "PolicyLists",
    "RetrievalPolicy",
    "StateVector",
    "VectorRows",
    "catalogue_policy",
    "gaussian_actor",
    "make_catalogue_actor",
    "make_gaussian_actor",
    "make_retrieval_actor",
    "retrieval_policy",
]
