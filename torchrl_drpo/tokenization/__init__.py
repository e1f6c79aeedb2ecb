"""Semantic IDs: items' vectors become short sequences of codes, and how good these are."""

from torchrl_drpo.tokenization.collisions import collisions, hits_lost
from torchrl_drpo.tokenization.quality import CodeQuality, code_quality
from torchrl_drpo.tokenization.residual import ResidualCodes, residual_kmeans, told_apart

__all__ = [
    "CodeQuality",
    "ResidualCodes",
    "code_quality",
    "collisions",
    "hits_lost",
    "residual_kmeans",
    "told_apart",
]
