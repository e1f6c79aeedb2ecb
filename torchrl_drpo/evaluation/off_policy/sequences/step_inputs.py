"""What a Q-function reads of every step, and what it then expects of a policy there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from tensordict import TensorDictBase
from torch import Tensor

#: What a regressor reads: features, or a TensorDict of states and actions.
Inputs: TypeAlias = Tensor | TensorDictBase
#: From inputs of M rows to their values, ``[M]`` or ``[M, 1]``.
Predictor: TypeAlias = Callable[[Inputs], Tensor]
#: From inputs of M rows and targets ``[M]`` to a predictor.
Fit: TypeAlias = Callable[[Inputs, Tensor], Predictor]

#: Rows predicted together.
_ROWS_AT_A_TIME = 8192


@dataclass(frozen=True)
class StepInputs:
    """What the regressor reads of every step: the logged action, and actions of the policy.

    The policy's actions are all of them with their probabilities, or K draws from it, whose noise
    is then a part of every standard error.

    Attributes:
        logged: (s_t, a_t), ``[S, T, ...]``.
        policy: (s_t, a) for K actions, ``[S, T, K, ...]``.
        probability: pi_e(a|s_t) of these, ``[S, T, K]``; 1/K each by default.
        following: the same of the state after a truncated session's last step, ``[S, K, ...]``;
            without it these steps, whose targets nobody knows, are left out of the regression.
        following_probability: ``[S, K]``.
    """

    logged: Inputs
    policy: Inputs
    probability: Tensor | None = None
    following: Inputs | None = None
    following_probability: Tensor | None = None


def expected_q(
    predict: Predictor, actions: Inputs, probability: Tensor | None, *rows: Tensor
) -> Tensor:
    """Expectation of Q over K actions of each row that ``rows`` index, ``[M]``.

    Raises:
        ValueError: for probabilities that are none, or more or fewer predictions than actions.

    Example:
        >>> states = torch.tensor([[[0.0], [1.0]], [[2.0], [4.0]]])
        >>> expected_q(lambda x: x.squeeze(-1), states, None, torch.tensor([1, 0]))
        tensor([3.0000, 0.5000], dtype=torch.float64)
    """
    found = []
    for block in zip(*(each.split(_ROWS_AT_A_TIME) for each in rows), strict=True):
        drawn = actions[block]
        count = drawn.shape[1]
        q = _checked(predict(drawn.flatten(0, 1)), len(drawn) * count).view(-1, count)
        found.append(
            q.mean(-1) if probability is None else (_shares(probability[block]) * q).sum(-1)
        )
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def predicted_q(predict: Predictor, logged: Inputs, *rows: Tensor) -> Tensor:
    """Q of the logged action of each row that ``rows`` index, ``[M]``."""
    blocks = zip(*(each.split(_ROWS_AT_A_TIME) for each in rows), strict=True)
    return torch.cat([_checked(predict(logged[block]), len(block[0])) for block in blocks])


def _checked(predicted: Tensor, count: int) -> Tensor:
    if predicted.numel() != count:
        raise ValueError(
            f"the regressor's predictor must give one number a row, {count}, got shape "
            f"{tuple(predicted.shape)}"
        )
    return predicted.detach().reshape(-1).to("cpu", torch.float64)


def _shares(probability: Tensor) -> Tensor:
    """Probabilities of K actions, once they are those of a distribution."""
    found = probability.detach().to("cpu", torch.float64)
    off = (found.sum(-1) - 1).abs().max().item()
    if not off < 1e-3 or (found < 0).any():
        raise ValueError(
            "probabilities of the policy's actions must be at least 0 and sum to 1 in each state; "
            f"they miss it by {off:.3g}; leave them out where actions are drawn"
        )
    return found
