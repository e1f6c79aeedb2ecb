"""A policy over slates: the catalogue policy's scores, drawn from without replacement."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions.plackett_luce import PlackettLuce
from torchrl_drpo.distributions.plackett_luce.lists import Places
from torchrl_drpo.policies.catalogue import CataloguePolicy, catalogue_policy, make_catalogue_actor


class _Slates:
    """Lists by a policy's scores as they are when it is asked; owns no parameter of its own."""

    def __init__(self, policy: CataloguePolicy, slate: int, places: Places) -> None:
        self.policy, self.slate, self.places = policy, slate, places

    def distribution(self, hidden: Tensor) -> PlackettLuce:
        """The lists at states ``hidden [*B, D]``."""
        return PlackettLuce(self.policy.distribution(hidden), k=self.slate, places=self.places)


def make_slate_actor(
    num_items: int, *, slate: int, places: Places = "all", **options: Any
) -> ProbabilisticActor:
    """A policy over ordered lists of different items, from what a catalogue policy reads.

    As :func:`make_catalogue_actor`, but that ``action`` is a list, int64 ``[*B, slate]``: the best
    one, or a draw under ``set_exploration_type(ExplorationType.RANDOM)``; logged lists that are
    shorter end in -1. ``actor.get_dist(td)`` is a :class:`~torchrl_drpo.PlackettLuce`, and
    ``get_dist(td).topk(k)`` ranks single items, so every objective trains it and it is served as
    any catalogue policy is. :func:`~torchrl_drpo.data.slate_rows` makes a log's rows into lists.

    Three ways to learn from slates:

    - one quality a slate: ``places="all"`` on ``slate_rows(rows, per="slate")``;
    - one quality a place: ``places="last"`` on ``slate_rows(rows, per="place")``: each row weighs
      the item at its place, given those that stood before it;
    - the cheap relative: :func:`make_catalogue_actor` on the log's rows as they are. Its slate is
      a product of independent choices, without the correction for items that are gone, and its
      best list is the same order of scores. (The multiplier of Chen et al. 2019, "Top-K Off-Policy
      Correction", arXiv 1812.02353, which makes that product one of sets, is not applied.)

    Args:
        num_items: size of the catalogue.
        slate: places of a list.
        places: what a list's log-probability counts; see :class:`~torchrl_drpo.PlackettLuce`.
        **options: of :func:`make_catalogue_actor`; not ``mesh``, since ranks that share out a
            catalogue draw no lists together.

    Raises:
        ValueError: as :func:`make_catalogue_actor` does, and for a slate that is longer than the
            catalogue.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = make_slate_actor(1_000, slate=4, dim=16, history=3)
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 7, 42]])}}, [1])
        >>> actor(td)["action"].shape
        torch.Size([1, 4])
    """
    if not 1 <= slate <= num_items:
        raise ValueError(f"slate must lie in [1, {num_items}] (the catalogue), got {slate}")
    if places not in ("all", "last"):
        raise ValueError(f"places must be 'all' or 'last', got {places!r}")
    if options.get("mesh") is not None:
        raise ValueError("ranks that share out a catalogue draw no lists together; leave mesh out")
    actor = make_catalogue_actor(num_items, **options)
    slates = _Slates(catalogue_policy(actor), slate, places)
    return ProbabilisticActor(
        actor[0],
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=slates.distribution,
    )
