r"""Gaussian policies over vectors: what their weights will do, and what they serve.

Notation   N rows, D dimensions; policy N(m_e, s_e^2), logging policy N(m_b, s_b^2), each dimension
           on its own.

    E_b[w^2] = prod_d  s_b^2 / (s_e sqrt(2 s_b^2 - s_e^2))  exp((m_e - m_b)^2 / (2 s_b^2 - s_e^2))

finite only where :math:`s_e^2 < 2 s_b^2` in every dimension (derived by completing the square).
The effective share of the rows is one over its mean: a shift of half a standard deviation in each
dimension, at equal scales, leaves :math:`\exp(-D/4)`, which is 1.8% at D = 16. No row needs to be
read to know this.

Where the nearest item is served, the vector is not what the user sees, and two vectors that decode
to one item are one action. :class:`DecodedPolicy` is that policy over items, by draws; groups of
items (MIPS, OffCEM) are what its weights can be estimated for.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.policies.decoding import MIPSDecoder

#: A scale of sqrt(2) in float32 falls short of it by this much.
_ROUNDING = 1e-6


def log_expected_squared_weight(
    loc: Tensor, scale: Tensor, behavior_loc: Tensor, behavior_scale: Tensor
) -> Tensor:
    r"""Logarithm of :math:`E_{\pi_b}[w^2]` at each row; see the module for the formula.

    Args:
        loc: the policy's mean, ``[*N, D]``.
        scale: its standard deviation, above 0, broadcastable to that.
        behavior_loc: the logging policy's mean.
        behavior_scale: the logging policy's standard deviation.

    Returns:
        At least 0, float64, ``[*N]``.

    Raises:
        ValueError: where it is infinite: :math:`s_e^2 \ge 2 s_b^2` in one dimension.

    Example:
        >>> one, loc = torch.ones(2), torch.zeros(2)
        >>> log_expected_squared_weight(loc + 0.5, one, loc, one)  # D / 4
        tensor(0.5000, dtype=torch.float64)
    """
    given = torch.broadcast_tensors(loc, scale, behavior_loc, behavior_scale)
    m_e, s_e, m_b, s_b = (each.detach().double() for each in given)
    for name, each in (("scale", s_e), ("behavior_scale", s_b)):
        if not (each > 0).all():
            raise ValueError(f"{name} must be above 0, got {each.min().item()}")
    room = 2 * s_b.square() - s_e.square()
    infinite = ~(room > _ROUNDING * s_b.square())
    if infinite.any():
        *row, dimension = infinite.nonzero()[0].tolist()
        at = (*row, dimension)
        raise ValueError(
            f"E[w^2] is infinite: in dimension {dimension} the policy's standard deviation is "
            f"{s_e[at].item():.4g}, which is not below sqrt(2) times the logging policy's "
            f"{s_b[at].item():.4g}{f' (row {row[0]})' if row else ''}; an estimate by the density "
            "ratio would have no standard error. Narrow the policy, or count groups of what it "
            "serves (DecodedPolicy)"
        )
    peak = 2 * s_b.log() - s_e.log() - room.log() / 2
    return (peak + (m_e - m_b).square() / room).sum(-1)


def expected_effective_share(
    loc: Tensor, scale: Tensor, behavior_loc: Tensor, behavior_scale: Tensor
) -> float:
    r"""Share of a log's rows that the density ratio will leave, :math:`1 / E[w^2]`, in (0, 1].

    Args:
        loc: the policy's mean at states like the log's, ``[N, D]``.
        scale: its standard deviation.
        behavior_loc: the logging policy's mean.
        behavior_scale: the logging policy's standard deviation.

    Raises:
        ValueError: where :math:`E[w^2]` is infinite.

    Example:
        >>> shift, one = torch.full((1, 16), 0.5), torch.ones(16)
        >>> round(expected_effective_share(shift, one, torch.zeros(1, 16), one), 4)
        0.0183
    """
    squared = log_expected_squared_weight(loc, scale, behavior_loc, behavior_scale).reshape(-1)
    return math.exp(math.log(len(squared)) - torch.logsumexp(squared, 0).item())


class DecodedPolicy(Distribution):
    r"""What a policy over vectors serves: the item nearest to its draw, by counting draws.

    The probability of an item is the share of draws that decode to it. Draws are made once, from
    the global random state. Counts are unbiased, and so is every estimate that is linear in them
    (IPS, MIPS, DR, OffCEM), with their noise in its standard error; but only of probabilities that
    draws reach is anything seen, so count groups: ``score_log(lambda rows: DecodedPolicy(...), log,
    groups=..., draws=...)``. As a *logging* policy it will not do, since counts in a denominator
    are biased.

    Args:
        policy: over vectors, batch shape ``[*B]``, events ``[D]``.
        decoder: gives the nearest item.
        draws: vectors drawn a row, at least 1.

    Attributes:
        items: what was served, int64 ``[draws, *B]``.

    Raises:
        ValueError: for no draw.

    Example:
        >>> from torchrl_drpo.policies.gaussian import DiagonalNormal
        >>> gaussian = DiagonalNormal(torch.zeros(1, 2), torch.ones(2))
        >>> served = DecodedPolicy(gaussian, MIPSDecoder(torch.eye(2)), draws=4_000)
        >>> bool((served.log_prob(torch.tensor([0])).exp() - 0.5).abs() < 0.05)
        True
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)

    def __init__(self, policy: Distribution, decoder: MIPSDecoder, *, draws: int) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1 a row, got {draws}")
        super().__init__(policy.batch_shape, validate_args=False)
        # One draw of every row at a time: the vectors of all would fill gigabytes.
        served = [decoder.decode(policy.sample())[1].squeeze(-1) for _ in range(draws)]
        self.items = torch.stack(served)

    @property
    def support(self) -> constraints.Constraint:
        """Item numbers."""
        return constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithm of the share of draws that decode to the items ``[*B]``; ``-inf`` for none."""
        return (self.items == value).double().mean(0).log()

    def group_log_prob(self, groups: ItemGroups, action: Tensor) -> Tensor:
        """Logarithm of the share of draws in the group of each item ``[*B]``."""
        return (groups.of(self.items) == groups.of(action)).double().mean(0).log().cpu()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The first of the draws that are there, int64 ``[*sample_shape, *B]``.

        Raises:
            ValueError: if more are asked for.
        """
        count = torch.Size(sample_shape).numel()
        if count > len(self.items):
            raise ValueError(
                f"the policy was decoded {len(self.items)} times a row and {count} draws are asked "
                "for: make it with more draws"
            )
        return self.items[:count].reshape(self._extended_shape(sample_shape))
