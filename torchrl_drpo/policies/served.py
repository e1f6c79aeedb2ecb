"""Catalogue policies that are served otherwise than they were trained: what all have in common.

A trained policy stays as it is. What is wrapped around it changes the state, the item vectors or
both, and what comes out is a :class:`~torchrl_drpo.CatalogueCategorical` again: evaluation, item
indices, top-k, propensities and export see one more policy over items, and are not told apart.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.encoders import HistoryEncoder
from torchrl_drpo.policies.encoders.observations import observation_inputs
from torchrl_drpo.policies.encoders.reading import HistoryReader, item_actor


class AskingPolicy(HistoryReader):
    """What a policy that asks another one has of it, and passes on as it is.

    Attributes:
        policy: that is asked; its parameters are shared.
    """

    policy: Any

    @property
    def encoder(self) -> HistoryEncoder:
        """What reads histories."""
        return self.policy.encoder

    @property
    def context_columns(self) -> int:
        """Number of context columns that it reads."""
        return self.policy.context_columns

    @property
    def temperature(self) -> float:
        """Divides the logits."""
        return self.policy.temperature

    @property
    def bias(self) -> Tensor | None:
        """One score an item, before the temperature, ``[V]``."""
        return self.policy.bias

    def embed(self, item: Tensor) -> Tensor:
        """What a history's items say, ``[*, D]``."""
        return self.policy.embed(item)


class ServedPolicy(AskingPolicy):
    """A policy inside that is asked, and what is made of its answer.

    Args:
        policy: the trained one, or one that is itself served otherwise; not copied.

    Raises:
        ValueError: for a policy whose item table is shared out among ranks.
    """

    def __init__(self, policy: CataloguePolicy | ServedPolicy) -> None:
        super().__init__()
        if isinstance(policy, CataloguePolicy) and policy.shards is not None:
            raise ValueError(
                "a policy whose item table is shared out among ranks is served as it is; gather "
                "its table in one process first (load its checkpoint there)"
            )
        self.policy = policy

    @property
    def num_items(self) -> int:
        """Size V of the catalogue."""
        return self.policy.num_items

    def item_vectors(self) -> Tensor:
        """What states are multiplied with, ``[V, D]``, differentiable."""
        return self.policy.item_vectors()

    def distribution(self, hidden: Tensor) -> CatalogueCategorical:
        """The policy at states ``hidden [*B, D]``, over the item table as it is now."""
        return CatalogueCategorical(
            hidden, self.item_vectors(), bias=self.bias, temperature=self.temperature
        )


def asked_policy(actor: nn.Module) -> CataloguePolicy | ServedPolicy:
    """The policy over item numbers that an actor asks: the outermost one.

    Raises:
        TypeError: for an actor of another kind.
    """
    for module in actor.modules():  # from the outside to the inside
        if isinstance(module, CataloguePolicy | ServedPolicy):
            return module
    raise TypeError(f"expected an actor over item numbers, got {type(actor).__name__}")


def served_actor(
    policy: AskingPolicy, actor: ProbabilisticActor, inside: HistoryReader
) -> ProbabilisticActor:
    """An actor of ``policy``, which reads rows where ``actor`` does.

    Args:
        policy: that is to be served.
        actor: of the policy that it asks.
        inside: that one.
    """
    read = observation_inputs(
        inside.encoder.config, range(inside.context_columns), inside.num_features
    )
    keys = dict(zip(read, actor[0].in_keys, strict=True))  # where the actor has each
    return item_actor(policy, range(policy.context_columns), policy.num_features, **keys)
