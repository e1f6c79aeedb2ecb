"""Regression of the reward by a network, stopped when rows that it does not learn from say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.rewards.folds import assign_folds
from torchrl_drpo.rewards.rows import column_of, rewards_of

_ROWS_AT_A_TIME = 8192


class StandardisedReward(TensorDictModuleBase):
    """A network of the standardised reward, read in the reward's own units.

    Args:
        network: its first out_key is the prediction, ``[*B]`` or ``[*B, 1]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: TensorDictModuleBase) -> None:
        super().__init__()
        self.network = network
        self.in_keys, self.out_keys = list(network.in_keys), list(network.out_keys[:1])
        like = next(network.parameters())
        self.register_buffer("mean", like.new_zeros(()))
        self.register_buffer("std", like.new_ones(()))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the predicted reward and returns the tensordict."""
        key = self.out_keys[0]
        value = self.network(tensordict.select(*self.in_keys))[key]
        return tensordict.set(key, self.mean + self.std * value)


@dataclass(frozen=True)
class RewardRegression:
    """Fits a fresh network to rows by least squares: AdamW, early stopping on held-out rows.

    Networks overfit logs within hundreds of steps, so the one that predicts held-out rows best is
    kept. The global random state is left as it was.

    Attributes:
        make_model: makes an untrained TensorDictModule from state and action to one number.
        reward_key: what is predicted; the network learns it standardised.
        steps: gradient steps at most.
        batch_size: rows a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        held_out: share of the rows (or groups) that tells when to stop, in (0, .5]; taken as one
            over the nearest whole number.
        group_key: entry whose rows are held out together, such as the user's id.
        check_every: steps between two looks at the held-out rows.
        patience: looks without improvement after which it stops.
        seed: of the network's start, the held-out rows and the batches.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> rows = TensorDict(
        ...     {"action": torch.linspace(0, 1, 200).unsqueeze(-1)}, batch_size=[200]
        ... )
        >>> rows["next", "reward"] = 100 + 10 * rows["action"]
        >>> network = lambda: TensorDictModule(torch.nn.Linear(1, 1), ["action"], ["value"])
        >>> model = RewardRegression(network, learning_rate=0.1, weight_decay=0.0)(rows)
        >>> model(rows[[0, -1]])["value"].round().flatten()
        tensor([100., 110.])
    """

    make_model: Callable[[], TensorDictModuleBase]
    reward_key: NestedKey = ("next", "reward")
    steps: int = 2_000
    batch_size: int = 1_024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    held_out: float = 0.1
    group_key: NestedKey | None = None
    check_every: int = 50
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_positive("learning_rate", self.learning_rate)
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"held_out must lie in (0, 0.5], got {self.held_out}")

    def untrained(self) -> StandardisedReward:
        """A model of the same make, to load a saved state into."""
        return StandardisedReward(self.make_model())

    def __call__(self, rows: TensorDictBase) -> StandardisedReward:
        """A model fitted to ``rows``, batch size ``[N]``, frozen and in evaluation mode."""
        reward = rewards_of(rows, self.reward_key)
        generator = torch.Generator().manual_seed(self.seed)
        held = self._held_out(rows).to(reward.device)
        learned = (~held).nonzero().squeeze(-1)
        if len(learned) < 2:
            raise ValueError(f"a regression needs 2 rows to learn from, got {len(learned)}")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self.untrained().to(reward.device)
            model.mean.copy_(reward[learned].mean())
            model.std.copy_(reward[learned].std().clamp_min(1e-12))
            inputs = rows.select(*model.in_keys)
            self._descend(model, inputs, reward, learned, held.nonzero().squeeze(-1), generator)
        return model.requires_grad_(False).eval()

    def _held_out(self, rows: TensorDictBase) -> Tensor:
        parts = round(1 / self.held_out)
        group = None if self.group_key is None else column_of(rows, self.group_key, "group ids")
        return assign_folds(len(rows), parts, group=group, seed=self.seed + 1) == 0

    def _descend(
        self,
        model: StandardisedReward,
        inputs: TensorDictBase,
        reward: Tensor,
        learned: Tensor,
        held: Tensor,
        generator: torch.Generator,
    ) -> None:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        best, best_state, since = torch.inf, None, 0
        for step in range(1, self.steps + 1):
            model.train()
            drawn = torch.randint(len(learned), (self.batch_size,), generator=generator)
            index = learned[drawn.to(learned.device)]
            error = _predict(model, inputs[index]) - reward[index]
            optimizer.zero_grad(set_to_none=True)
            (error / model.std).square().mean().backward()
            optimizer.step()
            if step % self.check_every and step != self.steps:
                continue
            found = _squared_error(model, inputs, reward, held)
            since += 1
            if found < best:
                best, since = found, 0
                best_state = {name: t.clone() for name, t in model.state_dict().items()}
            if since >= self.patience:
                break
        if best_state is None:
            raise ValueError(
                "the regression diverged: its held-out error is not a number; lower the "
                f"learning_rate ({self.learning_rate}) or look for non-finite inputs"
            )
        model.load_state_dict(best_state)


def _predict(model: StandardisedReward, inputs: TensorDictBase) -> Tensor:
    return model(inputs)[model.out_keys[0]].reshape(len(inputs))


@torch.no_grad()
def _squared_error(
    model: StandardisedReward, inputs: TensorDictBase, reward: Tensor, rows: Tensor
) -> float:
    model.eval()
    total = torch.zeros((), dtype=torch.double)
    for block in rows.split(_ROWS_AT_A_TIME):
        error = _predict(model, inputs[block]) - reward[block]
        total += error.double().square().sum().cpu()
    return total.item() / len(rows)
