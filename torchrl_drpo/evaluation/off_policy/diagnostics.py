"""What the weights say of an estimate: on how much it rests, and whether it means anything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.intervals import cluster_sums, standard_error

Verdict = Literal["usable", "weak", "meaningless"]

#: Thresholds of the verdicts: an estimate is meaningless beyond any of the second numbers, weak
#: beyond any of the first, else usable.
THRESHOLDS: dict[str, tuple[float, float]] = {
    "effective_rows": (100.0, 20.0),  # at least
    "largest_share": (0.1, 0.5),  # of all weight, in one row: at most
    "mean_weight_error": (3.0, 6.0),  # standard errors from 1: at most
    "effective_events": (10.0, 4.0),  # at least, where rewards are at least 0
    "pareto_k": (0.7, 1.0),  # at most; from 1 on the weights have no mean (Vehtari et al. 2024)
    "never_logged": (0.05, 0.5),  # share of the policy on actions without a logged row: at most
    "clipped_mass": (0.1, 0.5),  # share of all weight that a cap takes away: at most
}


@dataclass(frozen=True)
class Diagnostics:
    """What an estimate rests on.

    Attributes:
        rows: logged rows, sessions or slates: whatever ``unit`` says has one weight.
        units: independent ones of these, or clusters.
        effective_rows: Kish's effective sample size, (sum w)^2 / sum w^2, of rows or of clusters.
        largest_share: share of all weight that the heaviest row has.
        mean_weight: mean of w, which is 1 where the policy only takes actions that are logged.
        mean_weight_error: distance of the mean weight from 1, in standard errors.
        pareto_k: shape of the generalised Pareto tail of the weights; NaN for too few rows, or
            weights that repeat.
        effective_events: (sum w r)^2 / sum (w r)^2, of how many equal clicks the estimate is made;
            at most effective_rows times (sum w r)^2 / (sum w sum w r^2), what so many rows have of
            them at this rate. NaN for rewards below 0. Of rows or of clusters, whose clicks are one
            event.
        clip_rate: share of the rows whose weight was lowered.
        clipped_mass: share of all weight that was taken away.
        never_logged: share of the policy's probability on actions that no row shows, where known.
        relies_on_weights: False for the direct method, which these numbers say nothing about.
        fitted: whether the logging policy's probabilities come of a model of the log.
        log_rows: rows of the log that these were drawn from, where they are a sample.
        equal_rewards: whether all rewards are one number, so that they show no spread.
        unit: what has one weight: ``"row"``, ``"session"`` or ``"slate"``.
    """

    rows: int
    units: int
    effective_rows: float
    largest_share: float
    mean_weight: float
    mean_weight_error: float
    pareto_k: float
    effective_events: float = math.nan
    clip_rate: float = 0.0
    clipped_mass: float = 0.0
    never_logged: float = math.nan
    relies_on_weights: bool = True
    fitted: bool = False
    log_rows: int | None = None
    equal_rewards: bool = False
    unit: str = "row"

    def reasons(self) -> list[tuple[Verdict, str]]:
        """What speaks against the estimate, a verdict and a sentence each."""
        if not self.relies_on_weights:
            why = "the direct method is its model: no interval says how wrong that is"
            return [("weak", why)]
        out: list[tuple[Verdict, str]] = []
        if self.fitted:
            out.append(
                ("weak", "the propensities are fitted, not logged: no interval knows how well")
            )
        if self.equal_rewards:
            out.append(("weak", "all rewards are equal: no interval knows how others would spread"))
        many = f"{self.unit}s" if self.units == self.rows else f"clusters of {self.unit}s"
        for name, words in _WORDS.items():
            value, (weak, worst) = getattr(self, name), THRESHOLDS[name]
            low = name.startswith("effective")
            if math.isnan(value):
                continue
            said = words.format(value, one=self.unit, many=many)
            if (value < worst) if low else (value > worst):
                out.append(("meaningless", said))
            elif (value < weak) if low else (value > weak):
                out.append(("weak", said))
        return out

    @property
    def verdict(self) -> Verdict:
        """The worst of the reasons, or ``"usable"``."""
        found = {verdict for verdict, _ in self.reasons()}
        return "meaningless" if "meaningless" in found else "weak" if found else "usable"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; what is not a number is ``None``."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return {**plain, "verdict": self.verdict, "reasons": [why for _, why in self.reasons()]}


#: A weight whose square no float holds.
_BEYOND = 1e150
#: How far the mean weight may be from 1 by rounding: a log-probability of -100 is 4e-6 off.
_ROUNDING = 1e-5
#: Share of a tail within 1% of each other from which on it ties. Of generalised Pareto tails with
#: k from -.5 to 4, 300 to a million rows, it is .004 to .14.
_TIED = 0.2
_WORDS = {
    "effective_rows": "the weights are worth {:.1f} {many}",
    "largest_share": "one {one} has {:.0%} of all weight",
    "mean_weight_error": "the mean weight lies {:.1f} standard errors from 1",
    "effective_events": "the weighted rewards are worth {:.1f} equal ones",
    "pareto_k": "the weights' tail has Pareto k {:.2f}",
    "never_logged": "{:.0%} of the policy is on actions that no {one} shows",
    "clipped_mass": "clipping takes {:.0%} of the weight away",
}


def diagnose(
    weight: Tensor,
    used: Tensor | None = None,
    *,
    reward: Tensor | None = None,
    cluster: Tensor | None = None,
    never_logged: float = math.nan,
    fitted: bool = False,
    log_rows: int | None = None,
    unit: str = "row",
) -> Diagnostics:
    """What importance weights say.

    Args:
        weight: w of each row, ``[N]``.
        used: the weights that the estimate uses, where they were lowered.
        reward: of each row, ``[N]``, for the number of events.
        cluster: ids of what varies as a whole, ``[N]``.
        never_logged: see :class:`Diagnostics`.
        fitted: see there.
        log_rows: see there.
        unit: see there.

    Raises:
        ValueError: if every weight is 0: the policy and the log have no action in common.

    Example:
        >>> diagnose(torch.tensor([1.0, 1.0, 2.0, 0.0]).double()).effective_rows
        2.6666666666666665
    """
    used = weight if used is None else used
    total = weight.sum().item()
    if not total > 0:
        raise ValueError(
            f"none of the {len(weight)} logged actions is one that the policy would take: there is "
            "no overlap, and nothing can be said of its value"
        )
    applied = _up_to_a_factor(used)
    mass = cluster_sums(applied, cluster)
    return Diagnostics(
        rows=len(weight),
        units=len(mass),
        effective_rows=(mass.sum().square() / mass.square().sum()).item(),
        largest_share=(applied.max() / applied.sum()).item(),
        mean_weight=weight.mean().item(),
        mean_weight_error=distance_from_one(weight, cluster),
        pareto_k=pareto_shape(applied),
        effective_events=_effective_events(applied, reward, cluster),
        clip_rate=(used < weight).double().mean().item(),
        clipped_mass=0.0 if used is weight else 1 - used.sum().item() / total,
        never_logged=never_logged,
        fitted=fitted,
        log_rows=log_rows,
        equal_rewards=reward is not None and bool((reward == reward[0]).all()),
        unit=unit,
    )


def _up_to_a_factor(weight: Tensor) -> Tensor:
    """Weights over the largest: their squares do not overflow, and shares are as they were."""
    top = weight.max()
    return weight / top if top < torch.inf else (weight == top).to(weight)


def distance_from_one(weight: Tensor, cluster: Tensor | None = None) -> float:
    """Of the mean weight, in standard errors; infinite where weights are beyond all measure.

    Nothing where the distance is what rounding to float32 makes: propensities of a third that were
    stored so are 3e-8 off, all to one side, and have no spread to measure that by.
    """
    if not weight.abs().max() < _BEYOND:
        return math.inf
    distance = abs(weight.mean().item() - 1)
    error = standard_error(weight - weight.mean(), cluster)
    return 0.0 if distance < _ROUNDING else distance / error if error else math.inf


def _effective_events(weight: Tensor, reward: Tensor | None, cluster: Tensor | None) -> float:
    if reward is None or (reward < 0).any():
        return math.nan
    mass, event = cluster_sums(weight, cluster), cluster_sums(weight * reward, cluster)
    squares = event.square().sum().item()
    if not squares:
        return 0.0
    seen = event.sum().item() ** 2 / squares
    # Where the heavy rows happen to have no click, those of light ones look many and alike, and the
    # estimate is low. At this rate of clicks the weights are worth no more of them than this:
    has = mass > 0
    second = (event[has].square() / mass[has]).sum()
    share = (event.sum().square() / (mass.sum() * second)).item()
    return min(seen, share * (mass.sum().square() / mass.square().sum()).item())


def pareto_shape(weight: Tensor, least: int = 20) -> float:
    r"""Shape k of a generalised Pareto fitted to the largest :math:`\min(N/5, 3\sqrt N)` weights.

    Above .7 importance estimates converge too slowly to be of use, from 1 on the weights have no
    mean. Source: Vehtari et al. 2024, "Pareto smoothed importance sampling" (arXiv 1507.02646),
    with the estimator of Zhang and Stephens 2009.

    Args:
        weight: at least 0, ``[N]``.
        least: fewest weights of a tail that can be fitted.

    Returns:
        k; NaN where the tail is shorter than ``least`` or its weights tie, ``-inf`` where it has
        no spread.
    """
    count = math.ceil(min(len(weight) / 5, 3 * math.sqrt(len(weight))))
    if count < least or count >= len(weight):
        return math.nan
    top = weight.double().topk(count + 1).values
    excess = (top[:-1] - top[-1]).flip(0)  # ascending, over the largest weight below the tail
    excess = excess[excess > 0]
    if len(excess) < least:
        return -math.inf  # a cap: no tail at all
    if len(excess.unique()) < len(excess) / 2 or _share_in_one_place(top[:-1].flip(0)) > _TIED:
        return math.nan  # a policy without a context has few weights, and no tail to be fitted
    return _zhang_stephens(excess / excess.max(), count)


def _share_in_one_place(tail: Tensor) -> float:
    """The most weights of a tail, ascending, within 1% of its threshold or its range of each other.

    Weights that differ by the last digits of a propensity are ties for all that they do, and to a
    fit in which small excesses tell the shape they look like a tail without end.
    """
    width = 0.01 * min(tail[0].item(), (tail[-1] - tail[0]).item())
    stop = torch.searchsorted(tail, tail + width, right=True)
    return (stop - torch.arange(len(tail))).max().item() / len(tail)


def _zhang_stephens(x: Tensor, tail: int) -> float:
    """Posterior mean of the shape on a grid of scales; ``x`` ascending, above 0."""
    n = len(x)
    points = 30 + int(math.sqrt(n))
    j = torch.arange(1, points + 1, dtype=x.dtype)
    quarter = x[int(n / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - (points / (j - 0.5)).sqrt()) / (3 * quarter)
    shape = torch.log1p(-theta.unsqueeze(-1) * x).mean(-1)  # minus k of each grid point
    fit = n * ((-theta / shape).log() - shape - 1)
    posterior = torch.softmax(fit, 0)
    best = (posterior * theta).sum()
    k = torch.log1p(-best * x).mean().item()
    return (k * tail + 0.5 * 10) / (tail + 10)  # a weak prior at .5, worth ten weights
