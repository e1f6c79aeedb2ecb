"""Where the rows of a log have what an encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey

from torchrl_drpo.policies.encoders.config import EncoderConfig

#: Where a log's rows have what an encoder reads, by the names of its arguments.
OBSERVATION_KEYS: dict[str, NestedKey] = {
    "history": ("observation", "history"),
    "context": ("observation", "context"),
    "features": ("observation", "features"),
    "times": ("observation", "history_time"),
    "feedback": ("observation", "history_feedback"),
}


def observation_inputs(
    config: EncoderConfig,
    context_sizes: Sequence[int] = (),
    num_features: int = 0,
    **keys: NestedKey,
) -> dict[str, NestedKey]:
    """Keys of what an encoder reads, by the names of its arguments.

    Args:
        config: the encoder's.
        context_sizes: of the context columns; none, and no context is read.
        num_features: none, and no features are read.
        **keys: others than those of a log's rows, by argument.
    """
    read = {
        "history": True,
        "context": bool(context_sizes),
        "features": num_features > 0,
        "times": config.times,
        "feedback": config.feedback,
    }
    known = OBSERVATION_KEYS | keys
    return {name: known[name] for name, wanted in read.items() if wanted}
