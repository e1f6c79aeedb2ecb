"""What ``kuairand`` compares: paths of policies, each along one strength.

A strength is a number of the loss, so that every point of the path is trained, or a knob that is
turned at serving, so that one training gives the whole path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tensordict import TensorDictBase
from torchrl.envs.transforms import Transform
from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule

from torchrl_drpo.policies.tilted import make_tilted_actor

Rows = TensorDictBase
#: A policy by its path and its place there.
Key = tuple[str, float]


@dataclass(frozen=True)
class Path:
    """Policies along one strength.

    Attributes:
        name: what it is called in tables.
        strength: what its parameter is called; empty for a path of one policy.
        values: of the parameter, in order.
    """

    name: str
    strength: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Served(Path):
    """A path along a knob that is turned at serving.

    Attributes:
        serve: from the trained actor, the knob and the log's critic to the actor that serves.
        critic: whether it asks the critic.
    """

    serve: Callable[[ProbabilisticActor, float, Any], ProbabilisticActor]
    critic: bool = True


@dataclass(frozen=True)
class Method(Path):
    """A family of losses along one parameter, and how its policies are served.

    Attributes:
        loss: from an actor, the parameter and the log's critic to the loss.
        transform: what batches go through, given the parameter and the seed; ``None`` for nothing.
        follows: whether the loss reads the critic or its columns.
        context: numbers of values of context columns that ``transform`` adds.
        served: further paths that the policy trained at the first of ``values`` gives.
        plain: whether policies are served as they were trained, too.
    """

    loss: Callable[[ProbabilisticActor, float, Any], LossModule]
    transform: Callable[[float, int], Transform] | None = None
    follows: bool = False
    context: tuple[int, ...] = ()
    served: tuple[Served, ...] = field(default_factory=tuple)
    plain: bool = True

    def asks_critic(self, strength: float) -> bool:
        """Whether training or serving at this strength needs the critic."""
        return self.follows or any(path.critic for path in self._served_at(strength))

    def policies(
        self, actor: ProbabilisticActor, strength: float, critic: Any
    ) -> Iterator[tuple[Key, ProbabilisticActor]]:
        """What an actor that was trained at ``strength`` is served as."""
        if self.plain:
            yield (self.name, strength), actor
        for path in self._served_at(strength):
            for value in path.values:
                yield (path.name, value), path.serve(actor, value, critic)

    def _served_at(self, strength: float) -> tuple[Served, ...]:
        return self.served if strength == self.values[0] else ()


#: Of tilts: from most of the spread of the rewards (standard deviation .29) to a seventh of it.
TAUS = (0.2, 0.1, 0.06, 0.04)


def tilt(
    name: str,
    serve: Callable[[ProbabilisticActor], ProbabilisticActor] = lambda actor: actor,
    taus: tuple[float, ...] = TAUS,
) -> Served:
    """A policy times exp(Q / tau): the path from the policy towards the critic.

    Args:
        name: of the path.
        serve: from the trained actor to the policy that is tilted.
        taus: of the path.
    """
    return Served(
        name,
        "tau",
        taus,
        lambda actor, tau, critic: make_tilted_actor(serve(actor), critic, tau),
    )
