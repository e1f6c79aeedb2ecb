"""What a reward model says of a log's training rows, whichever kind of policy it is made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.pipeline.objectives.named import find_objective


def reward_columns(fold: Tensor, predicted_reward: Tensor, state_value: Tensor) -> TensorDict:
    """Columns for an :class:`~torchrl_drpo.rewards.AnnotatedBuffer`, in storage order.

    Args:
        fold: of each training row, integer ``[N]``.
        predicted_reward: Q(s, a) by the models that did not see the row's fold, ``[N]``.
        state_value: V(s) by such models, ``[N]``.

    Returns:
        These three and ``predicted_advantage``, Q - V, all of batch size ``[N]``.

    Example:
        >>> import torch
        >>> columns = reward_columns(torch.zeros(1), torch.tensor([0.5]), torch.tensor([0.75]))
        >>> columns["predicted_advantage"]
        tensor([-0.2500])
    """
    columns = {
        "fold": fold.to(torch.int16),
        "predicted_reward": predicted_reward,
        "state_value": state_value,
        "predicted_advantage": predicted_reward - state_value,
    }
    return TensorDict(columns, [len(fold)])


def reward_warnings(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What the facts of a reward model say against following it.

    Example:
        >>> reward_warnings({"explained_variance": 0.3, "explained_variance_error": 0.01})
        ()
    """
    explained, error = facts["explained_variance"], facts["explained_variance_error"]
    if explained > 2 * error:
        return ()
    return (
        f"The reward model explains {explained:.2%} of the variance of rewards that it had not "
        f"seen, with a standard error of {error:.2%}: less than twice that above zero, so what "
        "follows it (uphill, guided, -q, -a, -tilt) may follow noise. Compare with positive-only.",
    )


@dataclass(frozen=True)
class LogReward:
    """A log's reward model and what it says of the training rows.

    Attributes:
        model: Q(s, a), frozen: a
            :class:`~torchrl_drpo.rewards.catalogue.CatalogueReward`, or what
            :func:`~torchrl_drpo.pipeline.reward_model.embedding.fit_embedding_reward` says.
        state_model: V(s), the expected reward of the state alone, by models of the same folds.
        columns: of every training row, as :func:`reward_columns` makes them, out of fold.
        facts: how it was fitted and how good it is, as JSON data; ``explained_variance`` is the
            share of the variance of rewards that no member in question had seen,
            ``explained_variance_error`` its standard error, over users where the log has some, else
            over rows; ``explained_variance_of_state`` the share that V alone explains.
        fingerprint: of what the model depends on.
    """

    model: Any
    state_model: Any
    columns: TensorDict
    facts: dict[str, Any]
    fingerprint: str

    def describe(self) -> str:
        """Two sentences for people."""
        facts = self.facts
        whole, state = facts["explained_variance"], facts["explained_variance_of_state"]
        return (
            "The reward model behind uphill, guided and the objectives that end in -q, -a or -tilt "
            f"explains {whole:.1%} (standard error {facts['explained_variance_error']:.1%}) of the "
            f"variance of quality in {facts['rows']:,} training rows, each judged by one of "
            f"{facts['folds']} models that saw nothing of its fold of {facts['folds_of']}. A model "
            f"that reads the state and not the item explains {state:.1%}: what the item adds, "
            f"{whole - state:.1%}, is what there is to choose by."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes following it doubtful, in sentences."""
        return reward_warnings(self.facts)

    def check(self, objectives: Iterable[str] = ()) -> None:
        """Refuses a model that knows nothing of what the objectives follow.

        Args:
            objectives: names of those that are to follow it.

        Raises:
            ValueError: if it explains nothing of the rewards that it had not seen; or, where one
                of the objectives follows Q - V or is tilted by Q, nothing beyond what V explains.
        """
        explained = self.facts["explained_variance"]
        if not explained > 0:
            raise ValueError(
                f"the reward model explains nothing of this log (out-of-fold explained variance "
                f"{explained:.4f} over {self.facts['rows']:,} training rows), so following it "
                "would be following noise; leave out the objectives that need it "
                "(uphill, guided and those that end in -q, -a or -tilt)"
            )
        of_state = self.facts["explained_variance_of_state"]
        known = {name: find_objective(name) for name in objectives}
        follow_advantage = [
            name
            for name, objective in known.items()
            if objective.signal == "predicted_advantage" or objective.tilt is not None
        ]
        if follow_advantage and not explained > of_state:
            raise ValueError(
                "the reward model explains nothing of this log beyond the state (out-of-fold "
                f"explained variance {explained:.4f}, {of_state:.4f} without the item, over "
                f"{self.facts['rows']:,} training rows), so the advantage of one item over another "
                f"would be noise; leave out {', '.join(follow_advantage)}"
            )
