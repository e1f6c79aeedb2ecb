r"""Quality as a condition: all rows are cloned, each with what it was worth as one more input.

A reward-conditioned policy (Kumar, Peng and Levine 2019, arXiv 1912.13465) models
:math:`\pi(a \mid s, q)` of *all* rows, and is asked for the best level q. Poor rows teach it what
poor rows look like, and nothing is repelled. At serving it is guided away from the worst level, in
the manner of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598):

.. math:: h = h_{best} + w\, (h_{best} - h_{away})

Scores are linear in h, so this is :math:`\pi_{best}\, (\pi_{best} / \pi_{away})^w`, normalised: one
query, and no reward model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.functional.checks import check_finite
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.served import ServedPolicy, asked_policy, served_actor

#: The level of a row whose quality is not told.
UNKNOWN = -1
#: A quality with so many values or fewer, as of ratings, has a level for each.
_FEW = 8


def level_edges(quality: Tensor) -> tuple[float, ...]:
    """Where levels of quality begin: quarters of the rows, or each value where there are few.

    Args:
        quality: of the training rows, ``[N]``.

    Returns:
        Increasing edges; a row's level is the number of edges at or below its quality.

    Raises:
        ValueError: if all rows are worth the same, or one is not finite.

    Example:
        >>> level_edges(torch.arange(100.0)), level_edges(torch.tensor([0.0, 1.0, 0.0]))
        ((25.0, 50.0, 75.0), (1.0,))
    """
    check_finite("quality", quality)
    values = quality.flatten().unique()  # sorted
    if len(values) < 2:
        raise ValueError(
            f"all {quality.numel()} rows have quality {values[0].item():g}: there is nothing to "
            "condition a policy on; train what imitates alone (bc)"
        )
    if len(values) <= _FEW:
        return tuple(values[1:].tolist())
    ordered = quality.flatten().sort().values
    quarters = [ordered[(len(ordered) * share) // 4].item() for share in (1, 2, 3)]
    # Values that many rows share may be several quarters at once, or the least of all.
    return tuple(sorted({edge for edge in quarters if edge > values[0]} or {values[1].item()}))


def quality_levels(quality: Tensor, edges: Sequence[float]) -> Tensor:
    """The level of each quality, int64 in ``[0, len(edges)]``.

    Raises:
        ValueError: for one that is not finite, which has no level (on the CPU: elsewhere looking
            would wait for the device).

    Example:
        >>> quality_levels(torch.tensor([0.1, 0.25, 0.9]), (0.25, 0.5, 0.75))
        tensor([0, 1, 3])
    """
    if reads_are_free(quality):
        check_finite("quality", quality)
    if not quality.is_floating_point():  # whole numbers would round the edges
        quality = quality.double()
    return torch.bucketize(quality, quality.new_tensor(edges), right=True)


class ConditionOnQuality(Transform):
    """Appends a row's level of quality to its context, for a policy that is conditioned on it.

    For a replay buffer, before a behaviour-cloning loss on an actor of
    ``make_catalogue_actor(..., context_sizes=(*sizes, len(edges) + 1))``.

    Args:
        edges: where levels begin; see :func:`level_edges`.
        unknown: share of rows whose level is hidden, in [0, 1): what they teach is the policy of
            all rows, which may be asked for, or guided away from, too.
        seed: of which rows these are.
        reward_key: where the quality lies, ``[*B]`` or ``[*B, 1]``.
        context_key: the context, int64 ``[*B, C]``; written where there is none.

    Raises:
        ValueError: for edges that do not increase, or a share out of range.

    Example:
        >>> from tensordict import TensorDict
        >>> rows = TensorDict({"next": {"reward": torch.tensor([[0.1], [0.9]])}}, [2])
        >>> ConditionOnQuality(unknown=0.0)(rows)["observation", "context"].flatten()
        tensor([0, 3])
    """

    def __init__(
        self,
        edges: Sequence[float] = (0.25, 0.5, 0.75),
        unknown: float = 0.1,
        seed: int = 0,
        *,
        reward_key: NestedKey = ("next", "reward"),
        context_key: NestedKey = ("observation", "context"),
    ) -> None:
        super().__init__()
        if not edges or any(not a < b for a, b in pairwise((-math.inf, *edges, math.inf))):
            raise ValueError(
                f"edges must be increasing finite numbers, at least one, got {tuple(edges)}"
            )
        if not 0 <= unknown < 1:
            raise ValueError(f"unknown must lie in [0, 1), got {unknown}")
        self.edges, self.unknown = tuple(edges), unknown
        self._reward_key, self._context_key = reward_key, context_key
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The rows, with one more context column."""
        reward = tensordict.get(self._reward_key).reshape(tensordict.shape)
        level = quality_levels(reward, self.edges)
        hidden = torch.rand(tensordict.shape, generator=self._generator) < self.unknown
        level = level.masked_fill(hidden.to(level.device), UNKNOWN).unsqueeze(-1)
        context = tensordict.get(self._context_key, None)
        context = level if context is None else torch.cat([context, level.to(context.dtype)], -1)
        return tensordict.set(self._context_key, context)

    def get_extra_state(self) -> Any:
        """The draws' state, so that a saved buffer goes on where it was."""
        return self._generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Takes up draws that :meth:`get_extra_state` described."""
        self._generator.set_state(state)


class ConditionedPolicy(ServedPolicy):
    """A policy whose last context column is a level of quality, asked for the best one.

    See :func:`make_conditioned_actor` for the arguments.

    Attributes:
        guidance: w, at least 0; it may be set at any time.
    """

    def __init__(
        self,
        policy: CataloguePolicy | ServedPolicy,
        guidance: float = 1.0,
        *,
        best: int | None = None,
        away: int = 0,
    ) -> None:
        super().__init__(policy)
        if not super().context_columns:
            raise ValueError(
                "the policy has no context column that could be a level of quality; make it with "
                "context_sizes=(*sizes, levels) and train it on ConditionOnQuality's rows"
            )
        levels = policy.encoder.context[-1].num_embeddings - 1  # one row is of unknown ones
        self.best, self.away = levels - 1 if best is None else best, away
        for name, level in (("best", self.best), ("away", away)):
            if not -1 <= level < levels:
                raise ValueError(
                    f"{name} must lie in [-1, {levels}), levels of quality, got {level}"
                )
        self.guidance = guidance

    @property
    def guidance(self) -> float:
        """How far it is guided away from the level ``away``."""
        return self._guidance

    @guidance.setter
    def guidance(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"guidance must be a finite number of at least 0, got {value}")
        self._guidance = float(value)

    @property
    def context_columns(self) -> int:
        """Number of context columns that it reads: the level is its own business."""
        return super().context_columns - 1

    def forward(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The guided state ``[*B, D]``; see :meth:`HistoryReader.forward` for the arguments."""

        def at(level: int) -> Tensor:
            column = history.new_full((*history.shape[:-1], 1), level)
            column = column if context is None else torch.cat([context, column.to(context)], -1)
            return self.policy(history, column, features, times, feedback)

        best = at(self.best)
        return best + self.guidance * (best - at(self.away)) if self.guidance else best


def make_conditioned_actor(
    actor: ProbabilisticActor,
    guidance: float = 1.0,
    *,
    best: int | None = None,
    away: int = 0,
) -> ProbabilisticActor:
    """The actor that serves a quality-conditioned policy; nothing is trained or copied.

    Args:
        actor: a catalogue actor whose last context column is a level of quality, trained on all
            rows with a :class:`~torchrl_drpo.BehaviorCloningLoss` and a
            :class:`ConditionOnQuality`.
        guidance: w, how far it is guided away, at least 0; 0 asks for the best level alone.
        best: level that is asked for; the highest by default.
        away: level that it is guided away from; the worst by default, -1 for that of all rows.

    Returns:
        The actor, which reads the other context columns and shares the parameters.

    Raises:
        ValueError: for a policy without a context column, or numbers out of range.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import make_catalogue_actor
        >>> trained = make_catalogue_actor(6, dim=4, history=2, context_sizes=(4,))
        >>> actor = make_conditioned_actor(trained, guidance=2.0)
        >>> rows = TensorDict({"observation": {"history": torch.tensor([[-1, 3]])}}, [1])
        >>> actor(rows)["action"].shape
        torch.Size([1])
    """
    inside = asked_policy(actor)
    policy = ConditionedPolicy(inside, guidance, best=best, away=away)
    return served_actor(policy, actor, inside)
