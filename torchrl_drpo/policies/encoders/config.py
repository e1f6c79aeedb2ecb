"""How an observation becomes a state: one description for every kind of policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torchrl_drpo.references import is_reference

#: How a history becomes one vector: every item alike, by recency, or by recency and content.
Pooling = Literal["mean", "recency", "attention"]
EncoderKind = Literal["pooling", "gru", "transformer"] | str

_POOLINGS = ("mean", "recency", "attention")
_KINDS = ("pooling", "gru", "transformer")


@dataclass(frozen=True)
class EncoderConfig:
    """What reads histories, context columns and features, whatever policy stands on it.

    Attributes:
        kind: ``"pooling"`` (a weighted mean, then an MLP), ``"gru"`` (items one by one),
            ``"transformer"`` (causal attention among the items), or one of your own, by reference
            (:func:`~torchrl_drpo.policies.encoders.own.own_mixer`).
        hidden: widths of the MLP's hidden layers. A pooled history always passes through it; a GRU
            and a transformer have one only where there is a context or a feature to mix in.
        pooling: of ``"pooling"``: ``"mean"``, ``"recency"`` or ``"attention"``.
        width: inner width of a GRU or a transformer; ``None``: that of the item embeddings.
        layers: of a GRU or a transformer.
        heads: of a transformer; they share its width out.
        expansion: inner width of a transformer's feed-forward layers over its width.
        dropout: in [0, 1); of item embeddings, attention and branches, in training.
        feedback: whether the quality of each past row is read beside its item.
        times: whether a transformer's attention knows how much time lies between two items, in
            powers of two.

    Raises:
        ValueError: for an unknown kind or pooling, a size below 1, heads that do not share the
            width out evenly, a dropout outside [0, 1), or times without a transformer.

    Examples:
        >>> EncoderConfig("transformer", layers=2, heads=2, dropout=0.3).kind
        'transformer'
        >>> EncoderConfig("lstm")
        Traceback (most recent call last):
        ValueError: kind must be pooling, gru or transformer, got 'lstm'
    """

    kind: EncoderKind = "pooling"
    hidden: tuple[int, ...] = (128,)
    pooling: Pooling = "recency"
    width: int | None = None
    layers: int = 2
    heads: int = 2
    expansion: int = 4
    dropout: float = 0.0
    feedback: bool = False
    times: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON has lists
        if self.kind not in _KINDS and not is_reference(self.kind):
            raise ValueError(f"kind must be pooling, gru or transformer, got {self.kind!r}")
        if self.pooling not in _POOLINGS:
            raise ValueError(f"pooling must be mean, recency or attention, got {self.pooling!r}")
        sizes = {f"hidden[{place}]": size for place, size in enumerate(self.hidden)}
        sizes |= {"layers": self.layers, "heads": self.heads, "expansion": self.expansion}
        sizes |= {} if self.width is None else {"width": self.width}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.times and self.kind != "transformer":
            raise ValueError(f"times are read by a transformer, not by {self.kind!r}")

    def inner_width(self, dim: int) -> int:
        """Width of a GRU or a transformer over embeddings of width ``dim``.

        Raises:
            ValueError: if a transformer's heads do not share it out evenly.
        """
        width = dim if self.width is None else self.width
        if self.kind == "transformer" and width % self.heads:
            raise ValueError(
                f"{self.heads} heads cannot share a width of {width} out; make the width a "
                "multiple of the heads"
            )
        return width

    @classmethod
    def of(cls, value: EncoderConfig | Mapping[str, Any] | None) -> EncoderConfig:
        """A config, or one from the JSON data that a checkpoint keeps.

        Raises:
            ValueError: for an entry that no encoder has.
        """
        if value is None or isinstance(value, cls):
            return value or cls()
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(
                f"an encoder has no {unknown[0]!r}; expected {', '.join(sorted(known))}"
            )
        return cls(**value)


def encoder_config(
    encoder: EncoderConfig | Mapping[str, Any] | None,
    hidden: tuple[int, ...],
    pooling: Pooling,
) -> EncoderConfig:
    """The encoder of an actor that was told ``hidden`` and ``pooling`` apart from it.

    Raises:
        ValueError: if both say something, for one of them would be ignored.
    """
    if encoder is None:
        return EncoderConfig(hidden=hidden, pooling=pooling)
    if (tuple(hidden), pooling) != (EncoderConfig.hidden, EncoderConfig.pooling):
        raise ValueError(
            f"hidden={tuple(hidden)} and pooling={pooling!r} are parts of the encoder, which is "
            "given too; say them in it: EncoderConfig(hidden=..., pooling=...)"
        )
    return EncoderConfig.of(encoder)
