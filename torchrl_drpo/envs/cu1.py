r"""C-U1: a contextual bandit whose signed equilibria are known in closed form.

Every state has a useful direction u: the centroid a+ of its four positives lies .70 short of the
best action a*, and eight negatives surround a*, of which the first lies .50 behind a+. Repelling
from that one moves the policy's mean beyond the positives, towards a* and then past it; repelling
from those in front of a* moves it back. All that can be measured is expected to happen at one
place, the same for every state, in the frame (u, its normal) with a+ as origin.

Under a fixed covariance, with rho the ratio of repulsive to attractive mass and m- the centroid of
the negatives in use, the mean rests at

.. math:: m^* = a_+ + \frac{\rho}{1 - \rho} (a_+ - m_-), \qquad \rho < 1,

and under a taper w(D) at a fixed point of the same with rho w(D). A learned variance rests at

.. math:: \sigma_*^2 = \frac{v_+ - \rho v_-}{1 - \rho} - \frac{\rho \Delta^2}{(1 - \rho)^2},

which is negative (the variance vanishes) before the mean is lost.

Source: "Dynamic Remoteness-Aware Policy Optimization" (2026), the environment C-U1 and the
equilibria of the signed update; both were derived anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHORT, BEHIND, WIDTH = 0.70, 0.50, 0.75  # |a* - a+|, |a+ - negative 0|, width of the reward
POSITIVE_RADIUS, NEGATIVE_RADIUS, BASELINE, SIGMA = 0.75, 1.20, 0.40, 0.60
STATES = 4_096  #: of the training and of the held-out set
Taper = Callable[[Tensor], Tensor]


def reward_at(distance: float | Tensor) -> Tensor:
    """R of an action at this distance from a*, in (0, 1].

    >>> reward_at(0.0)
    tensor(1.)
    """
    return torch.exp(-torch.as_tensor(distance).square() / (2 * WIDTH**2))


A_POSITIVE = float(reward_at(POSITIVE_RADIUS)) - BASELINE
A_NEGATIVE = float(reward_at(NEGATIVE_RADIUS)) - BASELINE


# -- the world ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """States with their actions.

    Attributes:
        state: ``[n, 6]``, standard normal.
        centre: a+, ``[n, 2]``.
        direction: u, of length 1, ``[n, 2]``.
        positives: ``[n, 4, 2]``, all of advantage :data:`A_POSITIVE`.
        negatives: ``[n, 8, 2]``, every 45 degrees about a* from the one behind a+; all of
            advantage :data:`A_NEGATIVE`.
    """

    state: Tensor
    centre: Tensor
    direction: Tensor
    positives: Tensor
    negatives: Tensor


def make_world(n: int, seed: int) -> World:
    """``n`` states with the four positives and eight negatives of each.

    >>> make_world(3, seed=0).negatives.shape
    torch.Size([3, 8, 2])
    """
    s = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    s1, s2, s3, s4, s5, s6 = s.unbind(-1)
    centre = torch.stack(
        [
            0.70 * torch.tanh(0.85 * s1 - 0.30 * s2 * s3 + 0.20 * torch.sin(1.6 * s4)),
            0.65 * torch.tanh(-0.50 * s2 + 0.35 * torch.cos(1.1 * s5) + 0.22 * s1 * s6),
        ],
        -1,
    )
    phi = 1.15 * torch.tanh(0.75 * s1 + 0.50 * s3 - 0.30 * s6) + 0.30 * torch.sin(1.35 * s2)
    direction = torch.stack([phi.cos(), phi.sin()], -1)
    best = centre + SHORT * direction

    def circle(radius: float, angles: Tensor) -> Tensor:
        around = phi.unsqueeze(-1) + angles
        return best.unsqueeze(1) + radius * torch.stack([around.cos(), around.sin()], -1)

    wide = math.acos(2 * SHORT / POSITIVE_RADIUS - math.cos(0.20))  # their centroid is a+
    positives = circle(POSITIVE_RADIUS, math.pi + torch.tensor([0.20, -0.20, wide, -wide]))
    negatives = circle(NEGATIVE_RADIUS, math.pi + math.pi / 4 * torch.arange(8))
    return World(s, centre, direction, positives, negatives)


# -- closed forms; places are (along u, along its normal) from a+, in units of SHORT --------------


def mass_ratio(alpha: float) -> float:
    """Rho: the negatives average to one negative, the positives to one, then alpha.

    >>> round(mass_ratio(1.0), 3)
    0.591
    """
    return alpha * -A_NEGATIVE / A_POSITIVE


def negative_places(negatives: Sequence[int] = range(8)) -> list[tuple[float, float]]:
    """Where the negatives lie.

    >>> [round(x, 3) for x, _ in negative_places([0, 4])]
    [-0.714, 2.714]
    """
    radius, angles = NEGATIVE_RADIUS / SHORT, [math.pi + math.pi / 4 * k for k in negatives]
    return [(1 + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def negative_remoteness(
    place: tuple[float, float] = (0.0, 0.0),
    negatives: Sequence[int] = range(8),
    sigma: float = SIGMA,
) -> list[float]:
    """Squared Mahalanobis distance D of each negative from a mean at ``place``.

    >>> [round(d, 2) for d in negative_remoteness(negatives=[0, 2, 4])]
    [0.69, 5.36, 10.03]
    """
    return [
        ((x - place[0]) ** 2 + (y - place[1]) ** 2) * (SHORT / sigma) ** 2
        for x, y in negative_places(negatives)
    ]


def displacement_of(rho: float) -> float:
    """How far along u the mean rests that repels from negative 0 alone; rho below 1.

    >>> round(displacement_of(7 / 12), 6)  # the best action: the top of the inverted U
    1.0
    """
    return BEHIND / SHORT * rho / (1 - rho)


def resting_place(alpha: float, negatives: Sequence[int] = (0,)) -> tuple[float, float]:
    """Where the mean rests that repels from ``negatives`` under a global scale alpha.

    Returns:
        The place; infinite where rho is 1 or more, for then nothing holds the mean.

    >>> resting_place(2.0)
    (inf, inf)
    >>> round(resting_place(0.5)[0], 4) == round(displacement_of(mass_ratio(0.5)), 4)
    True
    """
    rho, places = mass_ratio(alpha), negative_places(negatives)
    if rho >= 1:
        return math.inf, math.inf
    x, y = (sum(values) / len(places) for values in zip(*places, strict=True))
    return -rho / (1 - rho) * x, -rho / (1 - rho) * y


def tapered_displacement(
    alpha: float,
    taper: Taper,
    sigma: float = SIGMA,
    negatives: Sequence[int] = (0,),
    limit: float = 50.0,
) -> float:
    """The first place along u, seen from a+, at which the tapered forces balance.

    Where the force jumps through zero, as at the threshold of a hard cut-off, the mean is held
    at the jump. The negatives must lie symmetrically about u, so that the mean stays on the line.

    Args:
        alpha: global scale of the negatives.
        taper: ``taper(D) -> w``.
        sigma: fixed standard deviation of the policy.
        negatives: those in use.
        limit: where to stop looking.

    Returns:
        The displacement, in units of .70; plus or minus infinity where the forces balance nowhere
        within the limit.

    Raises:
        ValueError: for negatives that do not lie symmetrically.

    >>> flat = tapered_displacement(0.5, torch.ones_like)
    >>> round(flat, 6) == round(displacement_of(mass_ratio(0.5)), 6)
    True
    """
    places = torch.tensor(negative_places(negatives), dtype=torch.float64)
    if abs(float(places[:, 1].sum())) > 1e-9:
        raise ValueError(f"negatives must lie symmetrically about u, got {list(negatives)}")
    rho = mass_ratio(alpha)

    def force(x: Tensor) -> Tensor:
        """Along u, in units of the positives' pull at a distance of one; ``[m]`` of ``[m]``."""
        along = x.unsqueeze(-1) - places[:, 0]
        distance = (along.square() + places[:, 1].square()) * (SHORT / sigma) ** 2
        return rho * (taper(distance) * along).mean(-1) - x

    start = float(force(torch.zeros(1, dtype=torch.float64)))
    if start == 0:
        return 0.0
    ahead = math.copysign(1.0, start)
    path = ahead * torch.linspace(0, limit, 20_001, dtype=torch.float64)
    turned = (force(path) * ahead <= 0).nonzero()
    if len(turned) == 0:
        return ahead * math.inf
    low, high = path[turned[0] - 1], path[turned[0]]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if float(force(middle)) * ahead <= 0 else (middle, high)
    return float(high)


def reward_of(displacement: float, across: float = 0.0) -> float:
    """Reward of a mean at a place; 0 at an infinite one.

    >>> reward_of(1.0)
    1.0
    """
    return math.exp(-0.5 * (math.hypot(displacement - 1, across) * SHORT / WIDTH) ** 2)


def resting_variance(alpha: float, negatives: Sequence[int] = (0,)) -> float:
    """Where a learned variance, one for both dimensions, rests under a global scale alpha.

    Returns:
        sigma squared, in units of the action; not above 0 where the variance vanishes, and
        -inf where rho is 1 or more.

    >>> round(resting_variance(0.0), 5)  # the spread of the positives about their centroid
    0.03625
    >>> resting_variance(0.8) < 0 < 1 - mass_ratio(0.8)  # the mean would still be held
    True
    """
    rho, places = mass_ratio(alpha), negative_places(negatives)
    if rho >= 1:
        return -math.inf
    x, y = (sum(values) / len(places) for values in zip(*places, strict=True))
    apart = SHORT**2 * (x**2 + y**2) / 2
    spread = SHORT**2 * sum((a - x) ** 2 + (b - y) ** 2 for a, b in places) / (2 * len(places))
    attracting = (POSITIVE_RADIUS**2 - SHORT**2) / 2
    return (attracting - rho * spread) / (1 - rho) - rho * apart / (1 - rho) ** 2
