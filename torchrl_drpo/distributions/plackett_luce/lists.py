r"""Plackett-Luce: a list of k different items, each drawn from those that are left.

    log p(a_1 .. a_k) = sum_j [ z_{a_j} - logsumexp over i not in {a_1 .. a_{j-1}} of z_i ]

The normalisers are built from the last place to the first, which adds and never subtracts:

    L_{k+1} = logsumexp of the items that are not in the list,    L_j = logaddexp(L_{j+1}, z_{a_j})

Source: Plackett 1975, "The Analysis of Permutations"; Luce 1959, "Individual Choice Behavior".
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK
from torchrl_drpo.distributions.plackett_luce.scores import CandidateScores, CatalogueScores
from torchrl_drpo.functional.precision import at_least_float32

Places = Literal["all", "last"]


class PlackettLuce(Distribution):
    """Ordered lists of ``k`` different items, by the scores of a catalogue or of candidates.

    An action is a list, int64 ``[k]``, best place first; shorter lists end in -1. A list with an
    item twice, or with one that is excluded, has log-probability -inf.

    With a catalogue nothing keeps ``[*B, V]``: the normaliser is the op's of
    :class:`CatalogueCategorical`, sampling and the best list walk tiles. Where the list holds more
    than 99% of the probability, what is left is summed anew and not found by subtraction; on
    accelerators and in compiled code, which cannot look, a millionth is left at least.

    Args:
        scores: a :class:`CatalogueCategorical`, or the scores of candidates, floating ``[*B, C]``;
            -inf excludes one.
        mask: bool ``[*B, C]``, ``True`` where there is a candidate.
        k: places of a list; all candidates by default.
        places: what :meth:`log_prob` speaks of: ``"all"`` places, or the ``"last"`` one alone,
            given those before it: for logs whose places were judged one by one, a row each with the
            list up to there (:func:`torchrl_drpo.data.slate_rows`).
        validate_args: check the lists given to :meth:`log_prob`. ``None`` checks on the CPU only.

    Gradients reach the scores, or the catalogue's ``hidden``, ``items`` and ``bias``, through
    :meth:`log_prob` and :meth:`place_log_prob`. There is no entropy in closed form.

    >>> slates = PlackettLuce(torch.zeros(1, 4), k=2)
    >>> slates.log_prob(torch.tensor([[3, 0]])).exp()  # 1/4 * 1/3
    tensor([0.0833])
    >>> slates.log_prob(torch.tensor([[[3, -1]], [[3, 3]]])).exp().flatten()
    tensor([0.2500, 0.0000])
    >>> slates.sample((5,)).shape
    torch.Size([5, 1, 2])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)

    def __init__(
        self,
        scores: CatalogueCategorical | Tensor,
        mask: Tensor | None = None,
        *,
        k: int | None = None,
        places: Places = "all",
        validate_args: bool | None = None,
    ) -> None:
        self._scores = _scores_of(scores, mask)
        count = self._scores.num_items
        if k is None and isinstance(scores, CatalogueCategorical):
            raise ValueError(f"say how many of the {count} items a list has: k")
        k = count if k is None else k
        if not 1 <= k <= count:
            raise ValueError(f"k must lie in [1, {count}] (the items), got {k}")
        if places not in ("all", "last"):
            raise ValueError(f"places must be 'all' or 'last', got {places!r}")
        self.places = places
        super().__init__(self._scores.batch_shape, torch.Size([k]), validate_args=False)
        self._validate_args = validate_args

    @property
    def num_items(self) -> int:
        """Items of the catalogue, or candidates."""
        return self._scores.num_items

    @property
    def support(self) -> constraints.Constraint:
        """``k`` integers: items ``0 .. V - 1``, and -1 at the end of shorter lists."""
        return constraints.independent(constraints.integer_interval(-1, self.num_items - 1), 1)

    @property
    def mode(self) -> Tensor:
        """The likeliest list, which is that of the best items in order, int64 ``[*B, k]``.

        -1 where fewer than k items can be chosen.

        Raises:
            ValueError: on the CPU, for a row without a distribution; so do the draws.
        """
        return self._scores.best(self.event_shape[0])

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode: what TorchRL takes for ``InteractionType.DETERMINISTIC``."""
        return self.mode

    @property
    def mean(self) -> Tensor:
        """NaN, as for torch's ``Categorical``: item numbers have no order."""
        return torch.full(self._extended_shape(), torch.nan, device=self._scores.device)

    @property
    def variance(self) -> Tensor:
        """NaN, as for torch's ``Categorical``."""
        return self.mean

    def topk(self, k: int) -> TopK:
        """The best k items, and how likely each is in the first place; k may exceed a list's."""
        return self._scores.topk(k)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws lists, int64 ``[*sample_shape, *B, k]``: exactly, by the Gumbel top-k trick.

        Source: Yellott 1977; Kool et al. 2019, "Stochastic Beams and Where to Find Them" (arXiv
        1903.06059). Noise is float64: in float32 it would tie among a million items.
        """
        sample_shape = torch.Size(sample_shape)
        with torch.no_grad():
            drawn = self._scores.draw(self.event_shape[0], sample_shape.numel())
        return drawn.reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of lists, or of their last items alone (``places="last"``).

        Args:
            value: items, -1 behind the end of shorter lists, any integer type,
                ``[*sample, *B, k]``.

        Returns:
            Nats, float32 (float64 for float64), ``[*sample, *B]``; 0 for an empty list.

        Raises:
            ValueError: for an item outside the catalogue, a gap in a list, or another shape.
        """
        each = self.place_log_prob(value)
        if self.places == "all":
            return each.sum(-1)
        last = (value >= 0).sum(-1, keepdim=True) - 1
        empty = last.squeeze(-1) < 0
        return each.gather(-1, last.clamp_min(0)).squeeze(-1).masked_fill(empty, 0.0)

    def place_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each item given those before it, ``[*sample, *B, k]``.

        0 behind the end; together they are that of the list.
        """
        items, there = self._aligned(value)
        scores = self._scores.of(items)
        again = (items.unsqueeze(-1) == items.unsqueeze(-2)) & there.unsqueeze(-2)
        again = again.tril(-1).any(-1)  # the item stands further up already
        taken = there & ~again & (scores > -torch.inf)
        finite = torch.where(taken, scores, 0.0)
        left = self._scores.rest(items, taken, finite)
        normalisers = []
        for place in reversed(range(self.event_shape[0])):
            more = torch.logaddexp(left, finite[..., place])
            left = torch.where(taken[..., place], more, left)
            normalisers.append(left)
        normaliser = torch.stack(normalisers[::-1], -1)
        each = finite - torch.where(taken, normaliser, 0.0)
        return each.masked_fill(there & ~taken, -torch.inf)

    def choices_of(self, value: Tensor) -> Tensor:
        """Choices that :meth:`log_prob` adds up for each list, int64 ``[*sample, *B]``."""
        there = (value >= 0).sum(-1)
        return there if self.places == "all" else there.clamp_max(1)

    def entropy(self) -> Tensor:
        """Has no closed form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "PlackettLuce has no entropy in closed form; estimate it from draws: "
            "-slates.log_prob(slates.sample((64,))).mean(0)"
        )

    def expand(self, batch_shape: Any, _instance: PlackettLuce | None = None) -> PlackettLuce:
        """The same distribution over a larger batch; nothing is copied."""
        new = self._get_checked_instance(PlackettLuce, _instance)
        batch_shape = torch.Size(batch_shape)
        new._scores = self._scores.expand(batch_shape)
        new.places = self.places
        super(PlackettLuce, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        return (
            f"PlackettLuce(batch_shape: {tuple(self.batch_shape)}, places: "
            f"{self.event_shape[0]}, items: {self.num_items})"
        )

    def _aligned(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Items of one shape with the batch (0 behind the end), and where there are any."""
        if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"actions must be lists of integer item numbers, got {kind}")
        try:
            shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        except RuntimeError:
            shape = torch.Size()
        if shape[-1:] != self.event_shape or value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"actions must have shape [*sample, *{tuple(self.batch_shape)}, "
                f"{self.event_shape[0]}], got {tuple(value.shape)}; shorter lists end in -1"
            )
        check = self._validate_args
        if check is None:
            check = value.is_cpu and not torch.compiler.is_compiling()
        if check and torch._C._functorch.maybe_current_level() is None:
            self._check(value)
        value = value.long().expand(shape)
        there = value >= 0
        return value.masked_fill(~there, 0), there

    def _check(self, value: Tensor) -> None:
        bad = (value < -1) | (value >= self.num_items)
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"a list's items must lie in [0, {self.num_items}), or be -1 behind its end, but "
                f"entry {where} holds {value[where].item()}"
            )
        gap = (value[..., 1:] >= 0) & (value[..., :-1] < 0)
        if gap.any():
            where = tuple(gap.nonzero()[0].tolist())
            raise ValueError(
                f"a list ends at its first -1, but {value[where[:-1]].tolist()} goes on behind it "
                f"(list {where[:-1]}); move its items up"
            )


def _scores_of(
    scores: CatalogueCategorical | Tensor, mask: Tensor | None
) -> CandidateScores | CatalogueScores:
    if type(scores) is CatalogueCategorical:
        if mask is not None:
            raise ValueError(
                "a mask is for candidates; a bias of -inf takes an item out of a catalogue"
            )
        return CatalogueScores(scores)
    if not isinstance(scores, Tensor):
        raise TypeError(
            "expected a CatalogueCategorical or scores [*B, C] of candidates, got "
            f"{type(scores).__name__}"
        )
    if scores.ndim < 1 or not scores.is_floating_point() or scores.shape[-1] == 0:
        raise ValueError(
            f"scores must be floating, shape [*B, C] with C above 0, got {scores.dtype} "
            f"{tuple(scores.shape)}"
        )
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != scores.shape:
            raise ValueError(
                f"mask must be bool of shape {tuple(scores.shape)}, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        scores = scores.masked_fill(~mask, -torch.inf)
    return CandidateScores(at_least_float32(scores))
