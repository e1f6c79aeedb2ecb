r"""Networks of the reward over a catalogue: two towers, which score all items at once.

.. math:: \hat Q(s, a) = v(x) + x^\top e_a + b_a, \qquad x = \mathrm{encoder}(s)

The state's tower reads what the catalogue policy reads (history, context, features); v is what the
state alone is worth, b what an item is worth to everybody, and the product what suits whom.

Beside it stands :math:`\hat V(s) = v(x)`, a network of its own that reads the state alone: what is
to be expected there of whatever the log shows. :math:`\hat Q - \hat V` is then what the item adds.

Notation   B batch shape, L history, C context columns, F numeric features, V items (with a hat: the
           value of a state), D width of the towers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_drpo.policies.encoders import EncoderConfig, HistoryEncoder

HISTORY, CONTEXT = ("observation", "history"), ("observation", "context")
FEATURES = ("observation", "features")
TIMES, FEEDBACK = ("observation", "history_time"), ("observation", "history_feedback")
#: Entries of a state, by the argument that takes each.
STATE: dict[str, NestedKey] = {
    "history": HISTORY,
    "context": CONTEXT,
    "features": FEATURES,
    "times": TIMES,
    "feedback": FEEDBACK,
}
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
        encoder: EncoderConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = HistoryEncoder(
            dim,
            history,
            context_sizes=context_sizes,
            num_features=num_features,
            config=encoder or EncoderConfig(hidden=tuple(hidden)),
        )
        self.items = nn.Parameter(_ITEM_STD * torch.randn(num_items, dim))
        self.value = nn.Linear(dim, 1)

    def state(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """``[*B, D]`` from ``history [*B, L]``, ``context [*B, C]`` and ``features [*B, F]``.

        ``times`` and ``feedback`` are those of the history's rows, ``[*B, L]``, where the encoder
        reads them.
        """
        embedded = F.embedding(history.clamp(min=0), self.items)
        return self.encoder(embedded, history >= 0, context, features, times, feedback)


class StateReward(_StateTower):
    """The network of V: what the state alone says of the reward, whatever item is shown.

    Args:
        num_items: size V of the catalogue, whose items are in the histories.
        dim, history, context_sizes, hidden, num_features, encoder: as of :class:`TwoTowerReward`.

    Example:
        >>> network = StateReward(5, dim=4, history=3)
        >>> network(torch.tensor([[-1, 0, 2], [-1, -1, -1]])).shape
        torch.Size([2])
    """

    def forward(self, history: Tensor, *others: Tensor | None, **named: Tensor | None) -> Tensor:
        """Expected rewards ``[*B]`` of states; see :meth:`state` for the arguments."""
        return self.value(self.state(history, *others, **named)).squeeze(-1)


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
        encoder: what reads histories, in place of recency pooling and ``hidden``.

    Example:
        >>> network = TwoTowerReward(5, dim=4, history=3)
        >>> history = torch.tensor([[-1, 0, 2], [-1, -1, -1]])
        >>> every = network.every(history)
        >>> one = network(torch.tensor([3, 1]), history)
        >>> torch.allclose(one, every[[0, 1], [3, 1]])
        True
    """

    def __init__(self, num_items: int, **shape: Any) -> None:
        super().__init__(num_items, **shape)
        self.bias = nn.Parameter(torch.zeros(num_items))

    def forward(
        self, action: Tensor, history: Tensor, *others: Tensor | None, **named: Tensor | None
    ) -> Tensor:
        """Predicted rewards ``[*B]`` of items ``action [*B]``; see :meth:`state` for the others."""
        state = self.state(history, *others, **named)
        match = (state * F.embedding(action, self.items)).sum(-1)
        return self.value(state).squeeze(-1) + match + self.bias[action]

    def every(self, history: Tensor, *others: Tensor | None, **named: Tensor | None) -> Tensor:
        """Predicted rewards of all items, ``[*B, V]``; see :meth:`state` for the arguments."""
        state = self.state(history, *others, **named)
        return self.value(state) + state @ self.items.T + self.bias


def two_tower_module(num_items: int, **shape: Any) -> TensorDictModule:
    """A :class:`TwoTowerReward` that reads rows of a catalogue log; see there for the arguments."""
    inputs = {"action": "action"} | _inputs(**shape)
    return TensorDictModule(TwoTowerReward(num_items, **shape), inputs, ["predicted_reward"])


def state_module(num_items: int, **shape: Any) -> TensorDictModule:
    """A :class:`StateReward` that reads rows of a catalogue log; see there for the arguments."""
    return TensorDictModule(StateReward(num_items, **shape), _inputs(**shape), ["state_value"])


def _inputs(
    *,
    context_sizes: Sequence[int] = (),
    num_features: int = 0,
    encoder: EncoderConfig | None = None,
    **_: Any,
) -> dict[str, NestedKey]:
    """The entries of a state that a network of this shape reads, by its argument."""
    read = {
        "history": True,
        "context": bool(context_sizes),
        "features": num_features > 0,
        "times": encoder is not None and encoder.times,
        "feedback": encoder is not None and encoder.feedback,
    }
    return {name: STATE[name] for name, is_read in read.items() if is_read}
