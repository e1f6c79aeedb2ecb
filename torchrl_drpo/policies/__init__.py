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
from torchrl_drpo.policies.item_tables import ItemTableConfig
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.retrieval import (
    RetrievalPolicy,
    VectorRows,
    gaussian_actor,
    make_retrieval_actor,
    retrieval_policy,
)
from torchrl_drpo.policies.semantic_id import (
    SemanticIDPolicy,
    make_semantic_id_actor,
    semantic_id_policy,
)
from torchrl_drpo.policies.slates import make_slate_actor
from torchrl_drpo.policies.states import StateVector

__all__ = [
    "CataloguePolicy",
    "EncoderConfig",
    "FaissDecoder",
    "FeatureScaler",
    "HistoryEncoder",
    "HistoryPooling",
    "ItemTableConfig",
    "MIPSDecoder",
    "ObservationEncoder",
    "PolicyLists",
    "RetrievalPolicy",
    "SemanticIDPolicy",
    "StateVector",
    "VectorRows",
    "catalogue_policy",
    "gaussian_actor",
    "make_catalogue_actor",
    "make_gaussian_actor",
    "make_retrieval_actor",
    "make_semantic_id_actor",
    "make_slate_actor",
    "retrieval_policy",
    "semantic_id_policy",
]
