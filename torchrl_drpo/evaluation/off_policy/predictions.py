r"""What evaluation asks of a reward model: q^ of logged actions, and of all items tile by tile.

Any callable from rows to one number a row is a reward model for logged actions and for draws of the
policy. One that can also speak of tiles of items makes :math:`\hat V(x) = \sum_a \pi(a|x) \hat
q(x, a)` exact: it has ``tiles(rows)``, as :class:`InnerProductReward`, or ``predict_all(rows)``, as
the pipeline's catalogue model.

Whatever it is, it must not have seen the rows that it judges, or the correction of a doubly robust
estimate corrects nothing: :class:`~torchrl_drpo.CrossFittedReward` reads the fold of each row. It
may be a model of any make; OffCEM asks of it the differences between items of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.catalogue import RewardTiles
from torchrl_drpo.evaluation.off_policy.logs import one_a_row
from torchrl_drpo.rewards import CrossFittedReward

#: From rows to one number a row, ``[n]``.
RewardModel = TensorDictModuleBase | Callable[[TensorDictBase], Tensor]
#: Predictions of a model that gives those of all items at once, held together: 64 MiB of float32.
PREDICTIONS_AT_A_TIME = 2**24


class InnerProductReward:
    r"""Two towers: :math:`\hat q(x, a) = v(x) + \langle s(x), e_a \rangle + b_a`.

    Args:
        state: s, from rows to ``[n, D]``.
        items: e, ``[V, D]``.
        bias: b, ``[V]``; zero by default.
        value: v, from rows to ``[n]``; zero by default.
        action_key: where the rows have the item.
        in_keys: all entries that ``state`` and ``value`` read, where they are to be called once for
            rows that share them.

    Example:
        >>> from tensordict import TensorDict
        >>> rows = TensorDict({"x": torch.eye(2), "action": torch.tensor([1, 0])}, [2])
        >>> model = InnerProductReward(lambda rows: rows["x"], torch.tensor([[1.0, 2], [3, 4]]))
        >>> model(rows)
        tensor([3., 2.])
        >>> model.tiles(rows)(slice(0, 2))(slice(0, 1))
        tensor([[1.],
                [2.]])
    """

    def __init__(
        self,
        state: Callable[[TensorDictBase], Tensor],
        items: Tensor,
        bias: Tensor | None = None,
        value: Callable[[TensorDictBase], Tensor] | None = None,
        *,
        action_key: NestedKey = "action",
        in_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        self.state, self.items, self.bias, self.value = state, items, bias, value
        self.action_key = action_key
        if in_keys is not None:
            self.in_keys = [*in_keys, action_key]

    def __call__(self, rows: TensorDictBase) -> Tensor:
        """Predictions for the rows' actions, ``[n]``."""
        item = rows.get(self.action_key).reshape(len(rows))
        out = torch.linalg.vecdot(self.state(rows), self.items[item])
        out = out if self.bias is None else out + self.bias[item]
        return out if self.value is None else out + self.value(rows)

    def tiles(self, rows: TensorDictBase) -> RewardTiles:
        """Predictions for all items, by rows and tiles of items."""
        state = self.state(rows)
        value = None if self.value is None else self.value(rows).unsqueeze(-1)

        def of_rows(mine: slice) -> Callable[[slice], Tensor]:
            def of_items(items: slice) -> Tensor:
                out = state[mine] @ self.items[items].T
                out = out if self.bias is None else out.add_(self.bias[items])
                return out if value is None else out.add_(value[mine])

            return of_items

        return of_rows


def predicted(model: RewardModel, rows: TensorDictBase, *, unseen: bool = False) -> Tensor:
    """The model's predictions for the rows' actions, float64 ``[n]``.

    Args:
        model: see the module.
        rows: batch size ``[n]``.
        unseen: whether the rows are new to every member of a cross-fitted model.

    Raises:
        KeyError: for a cross-fitted model and rows that do not say which member saw them.
    """
    if isinstance(model, TensorDictModuleBase):
        value = model(_inputs(model, rows, unseen=unseen)).get(model.out_keys[0])
    else:
        value = model(rows)
    return one_a_row(value, rows, "the reward model's prediction").double()


def reward_tiles(
    model: RewardModel, rows: TensorDictBase, num_items: int, *, unseen: bool = False
) -> tuple[RewardTiles, int | None] | None:
    """Predictions by rows and tiles of items, and how many rows to ask for; ``None`` without."""
    own = getattr(model, "tiles", None)
    if own is not None:
        return own(rows), None
    every = getattr(model, "predict_all", None)
    if every is None:
        return None
    inputs = (
        _inputs(model, rows, unseen=unseen) if isinstance(model, TensorDictModuleBase) else rows
    )

    def of_rows(mine: slice) -> Callable[[slice], Tensor]:
        predictions = every(inputs[mine])
        return lambda items: predictions[:, items]

    return of_rows, max(1, PREDICTIONS_AT_A_TIME // num_items)


def state_keys(model: RewardModel, action_key: NestedKey) -> list[NestedKey] | None:
    """Entries of a row that decide the predictions of all items; ``None`` where nobody knows."""
    inputs: Iterable[NestedKey] | None = getattr(model, "in_keys", None)
    if inputs is None:
        return None
    inputs = [*inputs, *getattr(model, "optional_in_keys", ())]
    return [key for key in inputs if key != action_key]


def check_reads_action(model: RewardModel, action_key: NestedKey) -> None:
    """Refuses a model that would not notice which action a row has.

    Raises:
        ValueError: if it names its entries and the action is not among them.
    """
    inputs = getattr(model, "in_keys", None)
    if inputs is not None and action_key not in inputs:
        raise ValueError(
            f"the reward model reads {list(map(str, inputs))} and not the action {action_key!r}: "
            "its prediction would be that of any action"
        )


def _inputs(model: TensorDictModuleBase, rows: TensorDictBase, *, unseen: bool) -> TensorDictBase:
    """What a TensorDict model reads of the rows, in a tensordict that it may write to."""
    optional = list(getattr(model, "optional_in_keys", ()))
    if isinstance(model, CrossFittedReward):
        if unseen:
            optional = []
        elif rows.get(model.fold_key, None) is None:
            raise KeyError(
                f"a cross-fitted reward model needs {model.fold_key!r} to judge each row by the "
                "member that has not seen it, and the rows have none: CrossFittedReward.fit writes "
                "it into the rows it is given; for rows that are new to every member say "
                "unseen=True"
            )
    return rows.select(*model.in_keys, *optional, strict=False)
