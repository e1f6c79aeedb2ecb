"""Policies that choose an item code by code."""

from torchrl_drpo.policies.semantic_id.decoders import (
    GRUDecoder,
    ParallelDecoder,
    TransformerDecoder,
    make_decoder,
)
from torchrl_drpo.policies.semantic_id.language_model import LanguageModelDecoder
from torchrl_drpo.policies.semantic_id.policy import (
    SemanticIDPolicy,
    make_semantic_id_actor,
    semantic_id_policy,
)

__all__ = [
    "GRUDecoder",
    "LanguageModelDecoder",
    "ParallelDecoder",
    "SemanticIDPolicy",
    "TransformerDecoder",
    "make_decoder",
    "make_semantic_id_actor",
    "semantic_id_policy",
]
