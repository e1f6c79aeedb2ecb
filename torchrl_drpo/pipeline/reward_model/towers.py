r"""A reward model over a catalogue: two towers, cross-fitted, that scores all items at once.

.. math:: \hat Q(s, a) = v(x) + x^\top e_a + b_a, \qquad x = \mathrm{encoder}(s)

The state's tower reads what the catalogue policy reads (history, context, features); v is what the
state alone is worth, b what an item is worth to everybody, and the product what suits whom. A row
of all V predictions is one product with the item table, which a softmax policy forms for itself
anyway: so its expected reward is *exact*, where draws from a catalogue would be noise.

Beside it stands :math:`\hat V(s) = v(x)`, a network of its own that reads the state alone: what is
to be expected there of whatever the log shows. :math:`\hat Q - \hat V` is then what the item adds.

Notation   B batch shape, L history, C context columns, F numeric features, V items (with a hat: the
           value of a state), D width of the towers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.policies.encoders import HistoryEncoder
from torchrl_drpo.rewards import CrossFittedReward

HISTORY, CONTEXT = ("observation", "history"), ("observation", "context")
FEATURES = ("observation", "features")
#: Entries of a state, by the argument that takes each.
STATE: dict[str, NestedKey] = {"history": HISTORY, "context": CONTEXT, "features": FEATURES}
#: Numbers of a ``[rows, V]`` block of predictions: 64 MiB of float32.
PREDICTIONS_AT_A_TIME = 2**24
# Items start out alike. Large random embeddings would be noise that only many rows can undo, and
# most items of a log have few.
_ITEM_STD = 0.01


class _StateTower(nn.Module):
    """The state's tower and what a state is worth: all that the two networks have in common."""

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 32,
        history: int = 20,
        context_sizes: Sequence[int] = (),
        hidden: Sequence[int] = (64,),
        num_features: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = HistoryEncoder(
            dim,
            history,
            context_sizes=context_sizes,
            hidden=hidden,
            pooling="recency",
            num_features=num_features,
        )
        self.items = nn.Parameter(_ITEM_STD * torch.randn(num_items, dim))
        self.value = nn.Linear(dim, 1)

    def state(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """``[*B, D]`` from ``history [*B, L]``, ``context [*B, C]`` and ``features [*B, F]``."""
        embedded = F.embedding(history.clamp(min=0), self.items)
        return self.encoder(embedded, history >= 0, context, features)


class StateReward(_StateTower):
    """The network of V: what the state alone says of the reward, whatever item is shown.

    Args:
        num_items: size V of the catalogue, whose items are in the histories.
        dim, history, context_sizes, hidden, num_features: as of :class:`TwoTowerReward`.

    Example:
        >>> network = StateReward(5, dim=4, history=3)
        >>> network(torch.tensor([[-1, 0, 2], [-1, -1, -1]])).shape
        torch.Size([2])
    """

    def forward(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Expected rewards ``[*B]`` of states."""
        return self.value(self.state(history, context, features)).squeeze(-1)


class TwoTowerReward(_StateTower):
    """The network of the module's formula.

    Args:
        num_items: size V of the catalogue.
        dim: width D of the towers.
        history: longest history L that will be given.
        context_sizes: number of values of each context column; empty for no context.
        hidden: widths of the state tower's hidden layers.
        num_features: number F of numeric features, read in standard units: fit ``encoder.scaler``
            to the training rows before training.

    Example:
        >>> network = TwoTowerReward(5, dim=4, history=3)
        >>> history = torch.tensor([[-1, 0, 2], [-1, -1, -1]])
        >>> every = network.every(history)
        >>> one = network(torch.tensor([3, 1]), history)
        >>> torch.equal(one, every[[0, 1], [3, 1]])
        True
    """

    def __init__(self, num_items: int, **shape: Any) -> None:
        super().__init__(num_items, **shape)
        self.bias = nn.Parameter(torch.zeros(num_items))

    def forward(
        self,
        action: Tensor,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Predicted rewards ``[*B]`` of items ``action [*B]``."""
        state = self.state(history, context, features)
        match = (state * F.embedding(action, self.items)).sum(-1)
        return self.value(state).squeeze(-1) + match + self.bias[action]

    def every(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Predicted rewards of all items, ``[*B, V]``."""
        state = self.state(history, context, features)
        return self.value(state) + state @ self.items.T + self.bias


def two_tower_module(num_items: int, **shape: Any) -> TensorDictModule:
    """A :class:`TwoTowerReward` that reads rows of a catalogue log; see there for the arguments."""
    inputs = {"action": "action"} | _inputs(**shape)
    return TensorDictModule(TwoTowerReward(num_items, **shape), inputs, ["predicted_reward"])


def state_module(num_items: int, **shape: Any) -> TensorDictModule:
    """A :class:`StateReward` that reads rows of a catalogue log; see there for the arguments."""
    return TensorDictModule(StateReward(num_items, **shape), _inputs(**shape), ["state_value"])


def _inputs(
    *, context_sizes: Sequence[int] = (), num_features: int = 0, **_: Any
) -> dict[str, NestedKey]:
    """The entries of a state that a network of this shape reads, by its argument."""
    read = {"history": True, "context": bool(context_sizes), "features": num_features > 0}
    return {name: STATE[name] for name, is_read in read.items() if is_read}


class CatalogueReward(CrossFittedReward):
    """Cross-fitted two-tower models; :meth:`CatalogueReward.fit` makes one.

    A :class:`~torchrl_drpo.CrossFittedReward` that also gives :class:`~torchrl_drpo.GuidedLoss` the
    exact expectation under a :class:`~torchrl_drpo.CatalogueCategorical`.
    """

    def predict_all(self, tensordict: TensorDictBase) -> Tensor:
        """Predictions for all items at each row, ``[n, V]`` for rows of batch size ``[n]``."""
        fold = tensordict.get(self.fold_key, None)
        if fold is None:
            fold = torch.full(tensordict.shape, -1, device=tensordict.device)
        fold = self._checked(fold.reshape(-1))
        inputs = {name: tensordict.get(key) for name, key in STATE.items() if key in self.in_keys}
        out: Tensor | None = None
        for member, mine in self._own_rows(fold):
            mine_alone = {name: entry[mine] for name, entry in inputs.items()}
            own = member.network.module.every(**mine_alone)
            own = torch.addcmul(member.mean, member.std, own)
            out = own.new_zeros(len(fold), own.shape[1]) if out is None else out
            if (fold >= 0).all():
                out[mine] = own
            else:  # all members speak of a row that is new to them
                share = torch.where(fold[mine] < 0, 1 / len(self.members), 1.0)
                out[mine] += share.unsqueeze(-1) * own
        assert out is not None  # there are rows
        return out

    def expected_reward(self, tensordict: TensorDictBase, dist: Distribution) -> Tensor:
        """The policy's expected prediction at each row, exact, ``[*B]``.

        Differentiable in the policy and not in this model. Where the rows' predictions would not
        fit the memory that ``PREDICTIONS_AT_A_TIME`` allows, they are made block by block, and
        once more in the backward pass.

        Args:
            tensordict: rows with this model's inputs, but for the action.
            dist: the policy at these rows.

        Raises:
            TypeError: for a policy that is not over a catalogue.
        """
        if not isinstance(dist, CatalogueCategorical):
            raise TypeError(
                "a catalogue's reward model needs a CatalogueCategorical policy, got "
                f"{type(dist).__name__}"
            )
        rows = tensordict.select(*self.in_keys, self.fold_key, strict=False).reshape(-1)
        hidden = dist.hidden.reshape(len(rows), -1)
        size = max(1, PREDICTIONS_AT_A_TIME // dist.num_items)

        def expected(start: int, block: Tensor) -> Tensor:
            part = CatalogueCategorical(block, dist.items, dist.bias, dist.temperature)
            with torch.no_grad():
                value = self.predict_all(rows[start : start + size])
            return (part.probs * value).sum(-1)

        if len(rows) <= size:
            return expected(0, hidden).reshape(dist.batch_shape)
        parts = [
            checkpoint(expected, start, block, use_reentrant=False, preserve_rng_state=False)
            for start, block in zip(range(0, len(rows), size), hidden.split(size), strict=True)
        ]
        return torch.cat(parts).reshape(dist.batch_shape)

    def tiles(self, tensordict: TensorDictBase) -> Callable[[slice], Callable[[slice], Tensor]]:
        """Predictions by rows and tiles of items: :meth:`predict_all` that never exists as a whole.

        Args:
            tensordict: rows of batch size ``[n]``.

        Returns:
            From some of the rows to a function from some items to predictions ``[rows, items]``.
        """
        fold = tensordict.get(self.fold_key, None)
        if fold is None:
            fold = torch.full(tensordict.shape, -1, device=tensordict.device)
        fold = self._checked(fold.reshape(-1))
        inputs = {name: tensordict.get(key) for name, key in STATE.items() if key in self.in_keys}
        states, shares, base = [], [], torch.zeros(())
        for number, member in enumerate(self.members):
            network = member.network.module
            state = network.state(**inputs)
            share = torch.where(fold < 0, 1 / len(self.members), (fold == number).float())
            base = base + share * (member.mean + member.std * network.value(state).squeeze(-1))
            shares.append(share * member.std)
            states.append(state * shares[-1].unsqueeze(-1))
        # Members are summed by one product: each item's rows of all of them, side by side.
        state, share = torch.cat(states, -1), torch.stack(shares, -1)
        networks = [member.network.module for member in self.members]

        def of_rows(mine: slice) -> Callable[[slice], Tensor]:
            def of_items(items: slice) -> Tensor:
                table = torch.cat([network.items[items] for network in networks], -1)
                bias = torch.stack([network.bias[items] for network in networks], -1)
                out = torch.addmm(base[mine].unsqueeze(-1), state[mine], table.T)
                return out.addmm_(share[mine], bias.T)

            return of_items

        return of_rows

    def _own_rows(self, fold: Tensor) -> Iterator[tuple[TensorDictModuleBase, Tensor]]:
        """Members, and the rows that each speaks of: its own fold, and those of none."""
        new = fold < 0
        for number, member in enumerate(self.members):
            mine = ((fold == number) | new).nonzero().squeeze(-1)
            if len(mine):
                yield member, mine
