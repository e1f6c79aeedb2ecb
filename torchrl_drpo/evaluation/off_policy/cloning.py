"""A logging policy fitted to its log by behaviour cloning, stopped by rows held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.objectives import BehaviorCloningLoss
from torchrl_drpo.policies.encoders import FeatureScaler
from torchrl_drpo.rewards import assign_folds

#: Rows held out that are looked at; more would cost a pass over the catalogue each and say no more.
_MOST_HELD = 4096


class _StateSoftmax(nn.Module):
    """Standardised state, hidden layers, and a softmax over items that is linear in the last."""

    def __init__(self, num_items: int, states: Tensor, hidden: Sequence[int]) -> None:
        super().__init__()
        states = states.detach().float()
        self.scaler = FeatureScaler(states.shape[-1]).fit_(
            states.mean(0), states.std(0, correction=0)
        )
        layers: list[nn.Module] = []
        widths = [states.shape[-1], *hidden]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers)
        # All items alike: what rows held out do not confirm stays at the uniform distribution.
        self.items = nn.Parameter(torch.zeros(num_items, widths[-1]))
        self.bias = nn.Parameter(torch.zeros(num_items))

    def forward(self, state: Tensor) -> Tensor:
        """``[*B, D]`` from states ``[*B, F]``."""
        return self.mlp(self.scaler(state))

    def distribution(self, hidden: Tensor) -> CatalogueCategorical:
        """The policy, over the item table as it is now."""
        return CatalogueCategorical(hidden, self.items, bias=self.bias)


def make_logistic_actor(
    num_items: int,
    states: Tensor,
    *,
    hidden: Sequence[int] = (),
    state_key: NestedKey = "observation",
) -> ProbabilisticActor:
    """Multinomial logistic regression of the item on a state vector, as an actor.

    For states that are vectors; of histories, contexts and features
    :func:`~torchrl_drpo.make_catalogue_actor` makes an actor.

    Args:
        num_items: V, size of the catalogue.
        states: of the log, ``[N, F]``, whose moments become the units of the state.
        hidden: widths of hidden layers between; none for the regression itself.
        state_key: where a row has its state, ``[*B, F]``.

    Returns:
        An untrained actor: uniform at every state.

    Example:
        >>> from tensordict import TensorDict
        >>> actor = make_logistic_actor(4, torch.randn(50, 3))
        >>> actor.get_dist(TensorDict({"observation": torch.randn(2, 3)}, [2])).probs[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    policy = _StateSoftmax(num_items, states, hidden)
    return ProbabilisticActor(
        TensorDictModule(policy, in_keys=[state_key], out_keys=["hidden"]),
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=policy.distribution,
    )


@dataclass(frozen=True)
class Cloning:
    """Fits a fresh actor to rows by maximum likelihood: AdamW, early stopping on held-out rows.

    The actor that finds held-out actions likeliest is kept. The global random state is left as it
    was.

    Attributes:
        make_actor: makes an untrained actor: :func:`make_logistic_actor`, or
            :func:`~torchrl_drpo.make_catalogue_actor` for a log with histories.
        action_key: what is to be predicted.
        steps: gradient steps at most.
        batch_size: rows a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        held_out: share of the rows (or groups) that tells when to stop, in (0, .5]; taken as one
            over the nearest whole number.
        group_key: entry whose rows are held out together, such as the user's id.
        check_every: steps between two looks at the held-out rows.
        patience: looks without improvement after which it stops.
        seed: of the actor's start, the held-out rows and the batches.

    Example:
        >>> from tensordict import TensorDict
        >>> rows = TensorDict({"observation": torch.randn(400, 1)}, [400])
        >>> rows["action"] = (rows["observation"][:, 0] > 0).long()
        >>> fit = Cloning(lambda: make_logistic_actor(2, rows["observation"]), steps=200)
        >>> bool(fit(rows).get_dist(rows).log_prob(rows["action"]).mean() > -0.3)
        True
    """

    make_actor: Callable[[], ProbabilisticTensorDictSequential]
    action_key: NestedKey = "action"
    steps: int = 2_000
    batch_size: int = 512
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    held_out: float = 0.1
    group_key: NestedKey | None = None
    check_every: int = 25
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"held_out must lie in (0, 0.5], got {self.held_out}")

    def __call__(self, rows: TensorDictBase) -> ProbabilisticTensorDictSequential:
        """An actor fitted to ``rows``, batch size ``[N]``, frozen and in evaluation mode.

        Raises:
            ValueError: if held-out actions have no finite log-probability.
        """
        group = None if self.group_key is None else rows.get(self.group_key)
        parts = round(1 / self.held_out)
        held = assign_folds(len(rows), parts, group=group, seed=self.seed + 1) == 0
        learned, judged = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            # Not the first ones: a log lies in order of time.
            judged = judged[torch.randperm(len(judged))[:_MOST_HELD]]
            actor = self.make_actor()
            loss = BehaviorCloningLoss(actor)
            loss.set_keys(action=self.action_key)
            inputs = rows.select(*actor.in_keys, self.action_key)
            self._descend(actor, loss, inputs[learned], inputs[judged])
        return actor.requires_grad_(False).eval()

    def _descend(
        self, actor: nn.Module, loss: nn.Module, learned: TensorDictBase, judged: TensorDictBase
    ) -> None:
        optimizer = torch.optim.AdamW(
            loss.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        best, best_state, since = torch.inf, _state(loss), 0
        for step in range(self.steps + 1):
            if step % self.check_every == 0 or step == self.steps:
                value = self._value(loss, judged)
                if not math.isfinite(value):
                    raise ValueError(
                        f"the model of the logging policy gives held-out actions a mean "
                        f"log-probability of {-value} after {step} steps: does every row have a "
                        "finite state, and an action that the actor can take?"
                    )
                improved = value < best
                best, since = (value, 0) if improved else (best, since + 1)
                if improved:
                    best_state = _state(loss)
                if since >= self.patience:
                    break
            drawn = torch.randint(len(learned), (self.batch_size,))
            optimizer.zero_grad(set_to_none=True)
            loss(learned[drawn])["loss_actor"].backward()
            optimizer.step()
        loss.load_state_dict(best_state)

    def _value(self, loss: nn.Module, judged: TensorDictBase) -> float:
        """What the held-out rows cost, in nats a row."""
        loss.eval()
        with torch.no_grad():
            value: float = loss(judged)["loss_actor"].item()
        loss.train()
        return value


def _state(module: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in module.state_dict().items()}
