"""What evaluation asks of a policy: a distribution for every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

#: An actor with ``get_dist``, a function from rows to a distribution, or the distribution itself.
Policy = nn.Module | Distribution | Callable[[TensorDictBase], Distribution]


def distribution_of(policy: Any, rows: TensorDictBase) -> Distribution:
    """The policy at rows, with their batch shape.

    Raises:
        ValueError: if what the policy gives is not one distribution a row.
    """
    if isinstance(policy, Distribution):
        dist = policy
    elif hasattr(policy, "get_dist"):
        dist = policy.get_dist(rows.select(*policy.in_keys))
    else:
        dist = policy(rows)
    if not isinstance(dist, Distribution) or dist.batch_shape != rows.shape:
        what = getattr(dist, "batch_shape", type(dist).__name__)
        raise ValueError(
            f"expected a distribution for each of {len(rows)} rows, got {what}; the entries of "
            "vectors are one event (torch's Independent)"
        )
    return dist


def log_prob_of(dist: Distribution, action: Tensor) -> Tensor:
    """Log-probability or log-density of one action a row, float64 ``[n]``, on the CPU.

    Raises:
        ValueError: for actions of another shape, which would be broadcast: one number a row stands
            for a vector of equal ones then, or a column of rows for every row.
    """
    expected = dist.batch_shape + dist.event_shape
    if action.shape != expected:
        raise ValueError(
            f"the actions have shape {list(action.shape)}, the policy's are {list(expected)}; "
            "are they those of this log?"
        )
    found: Tensor = dist.log_prob(action)
    return found.double().cpu()


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """Puts modules into evaluation mode, and back."""
    training = [
        part
        for module in modules
        if isinstance(module, nn.Module)
        for part in module.modules()
        if part.training
    ]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
