"""Of what a catalogue's reward models are made: the numbers of the fit, and untrained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.policies.encoders import EncoderConfig
from torchrl_drpo.rewards import RewardRegression
from torchrl_drpo.rewards.towers import CONTEXT, FEATURES, HISTORY


@dataclass(frozen=True)
class RewardConfig:
    """Numbers of the fit.

    Attributes:
        folds: of the cross-fitting; all rows of a user lie in one.
        dim: width of the towers.
        hidden: widths of the state tower's hidden layers.
        steps: gradient steps a member at most; the rows that it holds out stop it earlier.
        batch_size: rows a step.
        learning_rate: of AdamW.
        max_rows: fit to so many training rows at most, drawn at random; all rows are judged.
        seed: of the folds, the drawing and the members.
        encoder: what reads histories in place of recency pooling and ``hidden``: a GRU, say.

    Raises:
        ValueError: for an encoder that reads the times or the feedback of past rows, too.
    """

    folds: int = 5
    dim: int = 32
    hidden: tuple[int, ...] = (64,)
    steps: int = 4_000
    batch_size: int = 1_024
    learning_rate: float = 3e-4
    max_rows: int = 2_000_000
    seed: int = 0
    encoder: EncoderConfig | None = None

    def __post_init__(self) -> None:
        if self.encoder is not None and (self.encoder.times or self.encoder.feedback):
            raise ValueError(
                "a log's reward model reads the items of histories, not their times or feedback; "
                "leave these out of its encoder"
            )

    def to_json(self) -> dict[str, Any]:
        """The numbers, without those that leave a model as it was before there were such."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class RewardShape:
    """What a log's rows hold that a model of their reward reads.

    Attributes:
        num_items: size of the catalogue.
        history: length of the histories.
        context_sizes: number of values of each context column.
        num_features: numeric features.
    """

    num_items: int
    history: int
    context_sizes: tuple[int, ...] = ()
    num_features: int = 0

    @property
    def inputs(self) -> list[NestedKey]:
        """Entries of a row that are read."""
        keys: list[NestedKey] = ["action", HISTORY]
        keys += [CONTEXT] if self.context_sizes else []
        keys += [FEATURES] if self.num_features else []
        return keys


def reward_regression(
    make: Callable[..., TensorDictModule],
    shape: RewardShape,
    settings: RewardConfig,
    *,
    moments: tuple[Tensor, Tensor] | None,
    by_user: bool,
) -> RewardRegression:
    """Fits one member.

    Args:
        make: an untrained network of a shape, such as
            :func:`~torchrl_drpo.rewards.towers.two_tower_module`.
        shape: of the log.
        settings: numbers of the fit.
        moments: mean and standard deviation of the numeric features; ``None`` where there are none,
            or a saved state brings them. Those of all training rows, a member's held-out fold
            included: its features then move the units a little, but of its rewards, which are what
            a member must not know, nothing is seen.
        by_user: whether rows have the ``user`` whose rows are to be held out together.
    """

    def untrained() -> TensorDictModule:
        network = make(
            shape.num_items,
            dim=settings.dim,
            history=shape.history,
            context_sizes=shape.context_sizes,
            hidden=settings.hidden,
            num_features=shape.num_features,
            encoder=settings.encoder,
        )
        if moments is not None and shape.num_features:
            network.module.encoder.scaler.fit_(*moments)
        return network

    return RewardRegression(
        untrained,
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        group_key="user" if by_user else None,
        seed=settings.seed,
    )
