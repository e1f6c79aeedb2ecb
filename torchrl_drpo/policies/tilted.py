r"""Policy times critic: one step of policy improvement in closed form, at serving time.

.. math:: \pi_\tau(a \mid s) \propto \pi(a \mid s)\, \exp(Q(s, a) / \tau)

is what maximises :math:`E[Q] - \tau\, KL(\cdot \| \pi)` (Peters, Muelling and Altun 2010,
"Relative Entropy Policy Search"; Abdolmaleki et al. 2018, "Maximum a Posteriori Policy
Optimisation", arXiv 1806.06920, eq. 4): the exponential *tilt* of the policy by the critic. For a
softmax over items and a critic of two towers it is exact, and one inner product as before:

.. math:: [h;\, x]^\top\, [E_a / T;\, e_a / \tau] + b_a / T + b'_a / \tau

What the state alone is worth cancels. So a state in which everything is worth little goes on being
served as the policy serves it: only the order of its items changes. A large tau leaves the policy
as it is, a small one serves what the critic likes best.

Notation   B batch shape, V items, D width of the policy's states, K of the critic's, T the
           policy's temperature.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.served import AskingPolicy, ServedPolicy, asked_policy, served_actor


class Critic(Protocol):
    """Expected rewards of items as inner products, up to what the state alone is worth.

    ``queries(...) @ item_vectors().T + item_bias()`` differs from Q(s, .) by a number a state.
    :class:`~torchrl_drpo.rewards.CatalogueReward` is one.

    Attributes:
        num_items: size V of the catalogue.
        context_columns: number of context columns that it reads.
        num_features: number of numeric features that it reads.
    """

    @property
    def num_items(self) -> int:
        """V."""
        ...

    @property
    def context_columns(self) -> int:
        """C."""
        ...

    @property
    def num_features(self) -> int:
        """F."""
        ...

    def queries(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """``[*B, K]`` from ``history [*B, L]``, ``context [*B, C]`` and ``features [*B, F]``."""
        ...

    def item_vectors(self) -> Tensor:
        """``[V, K]``."""
        ...

    def item_bias(self) -> Tensor:
        """``[V]``."""
        ...


class CriticTilt(AskingPolicy):
    """A policy and, beside it, a critic that tilts it: states, and the temperature of the tilt.

    Attributes:
        critic: that tilts it.
        tau: above 0; it may be set at any time, and states do not depend on it.
    """

    critic: Critic

    def tilt(self, num_items: int, critic: Critic, tau: float) -> None:
        """Takes a critic.

        Raises:
            ValueError: for one that reads other rows than the policy does, or a tau out of range.
        """
        for name, mine, its in (
            ("items", num_items, critic.num_items),
            ("context columns", self.context_columns, critic.context_columns),
            ("numeric features", self.num_features, critic.num_features),
        ):
            if mine != its:
                raise ValueError(
                    f"the policy reads {mine} {name} and the critic {its}; fit the critic to the "
                    "log that the policy was trained on"
                )
        self.critic = critic
        self.tau = tau

    @property
    def tau(self) -> float:
        """Temperature of the tilt, in units of the reward."""
        return self._tau

    @tau.setter
    def tau(self, value: float) -> None:
        check_positive("tau", value)
        self._tau = float(value)

    def forward(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """States ``[*B, D + K]``: the policy's and, beside it, the critic's."""
        own = self.policy(history, context, features, times, feedback)
        return torch.cat([own, self.critic.queries(history, context, features)], -1)


class TiltedPolicy(CriticTilt, ServedPolicy):
    """A catalogue policy times the exponential of a critic; see :func:`make_tilted_actor`.

    Only item vectors and their bias depend on tau.
    """

    def __init__(self, policy: CataloguePolicy | ServedPolicy, critic: Critic, tau: float) -> None:
        super().__init__(policy)
        self.tilt(self.num_items, critic, tau)

    @property
    def temperature(self) -> float:
        """1: the policy's own is in the item vectors, where it does not divide the critic."""
        return 1.0

    @property
    def bias(self) -> Tensor:
        """``b / T + b' / tau``, ``[V]``."""
        own, temperature = self.policy.bias, self.policy.temperature
        tilt = self.critic.item_bias() / self.tau
        return tilt if own is None else own / temperature + tilt

    def item_vectors(self) -> Tensor:
        """``[E / T; e / tau]``, ``[V, D + K]``; made anew at each call."""
        own = self.policy.item_vectors() / self.policy.temperature
        return torch.cat([own, self.critic.item_vectors() / self.tau], -1)


def make_tilted_actor(actor: ProbabilisticActor, critic: Critic, tau: float) -> ProbabilisticActor:
    r"""The actor of :math:`\pi \exp(Q / \tau)`, normalised; nothing is trained or copied.

    Its distribution is a :class:`~torchrl_drpo.CatalogueCategorical`: ``log_prob``, ``sample`` and
    propensities are exact, top-k and item indices are inner products.

    Args:
        actor: of :func:`~torchrl_drpo.make_catalogue_actor`, or one made of it
            (:func:`~torchrl_drpo.policies.conditioned.make_conditioned_actor`).
        critic: the reward model of its log, such as a fitted
            :class:`~torchrl_drpo.rewards.CatalogueReward`.
        tau: temperature, in units of the reward, above 0. About a third of the rewards' standard
            deviation suited the logs that were tried; choose it on days inside the training period.

    Returns:
        The actor, which reads what ``actor`` reads and shares its parameters.

    Raises:
        ValueError: for a tau that is not positive and finite, a critic of another log, or a policy
            whose table is shared out among ranks.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import make_catalogue_actor
        >>> from torchrl_drpo.rewards.catalogue import CatalogueReward
        >>> from torchrl_drpo.rewards.regression import StandardisedReward
        >>> from torchrl_drpo.rewards.towers import two_tower_module
        >>> member = lambda: StandardisedReward(two_tower_module(6, dim=4, history=2))
        >>> critic = CatalogueReward([member(), member()])  # untrained: fit one to your log
        >>> tilted = make_tilted_actor(make_catalogue_actor(6, dim=8, history=2), critic, tau=0.1)
        >>> rows = TensorDict({"observation": {"history": torch.tensor([[-1, 3]])}}, [1])
        >>> tilted.get_dist(rows).probs.sum(-1).round(decimals=4)
        tensor([1.], grad_fn=<RoundBackward1>)
        >>> tilted_policy(tilted).tau = 0.05
    """
    inside = asked_policy(actor)
    return served_actor(TiltedPolicy(inside, critic, tau), actor, inside)


def tilted_policy(actor: ProbabilisticActor) -> TiltedPolicy:
    """The :class:`TiltedPolicy` of an actor of :func:`make_tilted_actor`.

    Raises:
        TypeError: for an actor that is not tilted.
    """
    policy = asked_policy(actor)
    if not isinstance(policy, TiltedPolicy):
        raise TypeError(
            f"expected an actor of make_tilted_actor, got one of {type(policy).__name__}"
        )
    return policy
