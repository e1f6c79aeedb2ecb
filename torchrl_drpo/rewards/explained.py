"""How much of the rewards a model explains, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Explained(NamedTuple):
    """A share of the rewards' variance with its standard error.

    Attributes:
        share: explained variance, 0-d float64.
        error: its standard error, 0-d float64.
    """

    share: Tensor
    error: Tensor

    @property
    def doubtful(self) -> bool:
        """Whether the share lies less than twice its standard error above zero.

        Example:
            >>> Explained(torch.tensor(0.03), torch.tensor(0.01)).doubtful
            False
            >>> Explained(torch.tensor(0.01), torch.tensor(0.01)).doubtful
            True
        """
        return not bool(self.share > 2 * self.error)


def explained_variance(predicted: Tensor, reward: Tensor, group: Tensor | None = None) -> Explained:
    r"""The share of the rewards' variance that predictions explain.

    .. math:: 1 - \frac{\sum_i (q_i - r_i)^2}{\sum_i (r_i - \bar r)^2}

    Its standard error is the delta method's for that ratio: with :math:`\rho` the ratio,
    :math:`\psi_i = \rho (r_i - \bar r)^2 - (q_i - r_i)^2` sums to zero, and the squares of its sums
    over what was drawn independently, rows or groups of rows, say how far the ratio varies. The
    predictions are taken as they are, those of models that have not seen the row.

    Args:
        predicted: q, ``[N]``.
        reward: r, ``[N]``.
        group: ids of any kind, ``[N]``, such as the user's, where rows of a group resemble each
            other. By default rows are independent.

    Returns:
        Both numbers; zeros where all rewards are the same, for there is nothing to explain, and an
        error of NaN where there is one group alone.

    Raises:
        ValueError: for shapes that differ, or fewer than two rows.

    Examples:
        >>> reward = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> float(explained_variance(reward, reward).share)
        1.0
        >>> found = explained_variance(torch.tensor([0.0, 0.0, 3.0, 3.0]), reward)
        >>> round(float(found.share), 3), round(float(found.error), 3)
        (0.6, 0.416)
    """
    if predicted.shape != reward.shape or reward.ndim != 1 or len(reward) < 2:
        raise ValueError(
            "expected predicted and reward of one shape [N], N at least 2, got "
            f"{tuple(predicted.shape)} and {tuple(reward.shape)}"
        )
    reward = reward.double()
    spread = (reward - reward.mean()).square()
    missed = (predicted.double() - reward).square()
    total = spread.sum()
    ratio = missed.sum() / total
    influence = ratio * spread - missed
    if group is not None:
        if group.numel() != len(reward):
            raise ValueError(
                f"expected one group id a row, {len(reward)}, got {tuple(group.shape)}"
            )
        of_row = torch.unique(group.reshape(-1), return_inverse=True)[1].to(reward.device)
        sums = influence.new_zeros(int(of_row.max()) + 1)
        influence = sums.index_add_(0, of_row, influence)
    count = len(influence)
    correction = count / (count - 1) if count > 1 else torch.nan
    error = (correction * influence.square().sum()).sqrt() / total
    nothing = torch.zeros_like(total)
    known = total > 0
    return Explained(torch.where(known, 1 - ratio, nothing), torch.where(known, error, nothing))
