"""What a rule is: weights from what the log says, then from what the policy says."""

from __future__ import annotations

from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.worlds import Worlds


class Rule:
    """An objective: weights from what the log says, then from what the policy says.

    Subclasses give :meth:`weigh`, and where needed the others. A rule object belongs to one
    training run.

    Args:
        quality: column of the log that tells good rows from bad.
    """

    def __init__(self, quality: str = "reward") -> None:
        self.quality = quality

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Called once, before the first step; may add columns to ``worlds.log``."""

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Weights divided by their count, ``[S, B]``; rows of weight 0 are not scored.

        Args:
            batch: the log's columns at the drawn rows, ``[S, B]``, without observation and action.
            step: from 0.
        """
        raise NotImplementedError

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """Weights that also look at the policy; ``[S, K]`` of the rows that are scored."""
        return weight

    def serve(self, mean: Tensor, users: Tensor) -> Tensor:
        """The action that is looked up among the items, ``[S, M, d]``: the policy's mean.

        Args:
            mean: of the policy, ``[S, M, d]``.
            users: their states, ``[S, M, p]``.
        """
        return mean

    def report(self) -> dict[str, Tensor]:
        """Numbers to be logged, ``[S]`` each."""
        return {}
