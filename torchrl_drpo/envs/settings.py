"""Every number of the simulator, as small frozen dataclasses with named presets.

Source: arXiv 2602.10430, appendix ("RecSim", not Google's). What the paper leaves open is set
so that the ends of its tables come out: a random policy at .147 retrieved reward and an oracle
near .44 on ``"table"``, a random policy near .046 on ``"collapse"``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from torchrl_drpo.functional.checks import check_fraction, check_positive

_Preset = TypeVar("_Preset")


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")


def _lookup(kind: str, name: str, presets: dict[str, _Preset]) -> _Preset:
    if name not in presets:
        known = " or ".join(repr(known) for known in presets)
        raise ValueError(f"unknown {kind} {name!r}; expected {known}")
    return presets[name]


@dataclass(frozen=True)
class RecSimSetting:
    """The world of a simulation: catalogue, interests, reward, and the loggers' habits.

    Attributes:
        state_dim: entries of a user's state.
        action_dim: d, entries of an item's embedding, and of an action.
        num_items: V, items in the catalogue.
        num_clusters: K, cluster centres of the catalogue.
        cluster_std: spread of the items around a centre of norm one (total, not per entry).
        interest_sharpness: factor of the logits that mix the centres into an interest; the
            inverse of their softmax temperature.
        delta: width of the latent reward, exp(-(1 - cos) / (2 delta^2)).
        reward_noise: standard deviation of the noise on observed rewards.
        expert_noise: spread of the expert's view of an interest (total, not per entry).
        expert_neighbours: items that the expert chooses among.
        popularity_draws: popular items that the popularity logger picks the best of.
        zipf_exponent: item of popularity rank r is drawn in proportion to ``r ** -zipf_exponent``.

    Examples:
        >>> RecSimSetting.preset("collapse").delta
        0.35
    """

    state_dim: int = 10
    action_dim: int = 128
    num_items: int = 5_000
    num_clusters: int = 10
    cluster_std: float = 1.2
    interest_sharpness: float = 2.0
    delta: float = 0.5
    reward_noise: float = 0.13
    expert_noise: float = 0.3
    expert_neighbours: int = 10
    popularity_draws: int = 8
    zipf_exponent: float = 1.0

    def __post_init__(self) -> None:
        for name in ("state_dim", "action_dim", "num_items", "num_clusters", "popularity_draws"):
            check_positive(name, getattr(self, name))
        for name in ("interest_sharpness", "delta"):
            check_positive(name, getattr(self, name))
        for name in ("cluster_std", "reward_noise", "expert_noise", "zipf_exponent"):
            _check_not_negative(name, getattr(self, name))
        if not 1 <= self.expert_neighbours <= self.num_items:
            raise ValueError(
                f"expert_neighbours must lie in [1, {self.num_items}], the number of items, "
                f"got {self.expert_neighbours}"
            )

    @staticmethod
    def preset(name: str) -> RecSimSetting:
        """Returns the setting ``"table"`` (the paper's tables) or ``"collapse"``."""
        return _lookup("setting", name, SETTINGS)


@dataclass(frozen=True)
class Scenario:
    """Who filled the log: the shares of the three loggers, which sum to one.

    Attributes:
        expert: share of rows from the noisy expert.
        popularity: share of rows from the popularity logger.
        random: share of rows with a uniformly random item.

    Examples:
        >>> Scenario.preset("extreme")
        Scenario(expert=0.05, popularity=0.05, random=0.9)
    """

    expert: float
    popularity: float
    random: float

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_not_negative(field.name, getattr(self, field.name))
        total = self.expert + self.popularity + self.random
        if abs(total - 1.0) > 1e-6:
            raise ValueError(
                "the shares of expert, popularity and random must sum to 1, "
                f"got {self.expert} + {self.popularity} + {self.random} = {total:g}"
            )

    @staticmethod
    def preset(name: str) -> Scenario:
        """Returns ``"medium"`` (an impression log) or ``"extreme"`` (full-corpus retrieval)."""
        return _lookup("scenario", name, SCENARIOS)


@dataclass(frozen=True)
class SessionSetting:
    r"""A session: the user's state drifts, and a well served user is likelier to stay.

    After each item the state becomes :math:`\sqrt{1 - c}\, s + \sqrt{c}\, \xi` with
    :math:`\xi \sim N(0, I)` and drift c, which leaves :math:`N(0, I)` unchanged; the interest
    follows the state. The user leaves with probability
    ``leave_probability * (1 - satisfaction * latent_reward)``.

    Attributes:
        drift: share of the state's variance that is new after each item, in [0, 1].
        leave_probability: chance of leaving after an item of no value, in (0, 1].
        satisfaction: how far a perfect item lowers that chance, in [0, 1).
    """

    drift: float = 0.05
    leave_probability: float = 0.2
    satisfaction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.drift <= 1:
            raise ValueError(f"drift must lie in [0, 1], got {self.drift}")
        check_fraction("leave_probability", self.leave_probability)
        if not 0 <= self.satisfaction < 1:
            raise ValueError(f"satisfaction must lie in [0, 1), got {self.satisfaction}")


TABLE = RecSimSetting()
COLLAPSE = replace(TABLE, delta=0.35, cluster_std=0.6, interest_sharpness=4.0, popularity_draws=16)
SETTINGS = {"table": TABLE, "collapse": COLLAPSE}
SCENARIOS = {
    "medium": Scenario(expert=0.10, popularity=0.60, random=0.30),
    "extreme": Scenario(expert=0.05, popularity=0.05, random=0.90),
}
