"""Encoders: histories, context columns and numeric features to state vectors."""

from torchrl_drpo.policies.encoders.config import EncoderConfig, EncoderKind, Pooling
from torchrl_drpo.policies.encoders.features import FARTHEST, FeatureScaler
from torchrl_drpo.policies.encoders.history import HistoryEncoder
from torchrl_drpo.policies.encoders.pooling import HistoryPooling
from torchrl_drpo.policies.encoders.reading import HistoryReader, item_actor
from torchrl_drpo.policies.encoders.recurrent import HistoryGRU
from torchrl_drpo.policies.encoders.transformer import HistoryTransformer
from torchrl_drpo.policies.encoders.with_items import ObservationEncoder

__all__ = [
    "FARTHEST",
    "EncoderConfig",
    "EncoderKind",
    "FeatureScaler",
    "HistoryEncoder",
    "HistoryGRU",
    "HistoryPooling",
    "HistoryReader",
    "HistoryTransformer",
    "ObservationEncoder",
    "Pooling",
    "item_actor",
]
