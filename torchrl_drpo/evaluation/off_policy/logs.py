"""How off-policy evaluation reads a log: block by block, whatever holds the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.rows import whole_ids

#: Rows of batch size [N]; or what has a length and gives rows by index tensor (a
#: :class:`~torchrl_drpo.RecReplayBuffer`, a part of one, a :class:`RowSample`); or blocks of rows.
Log = TensorDictBase | Iterable[TensorDictBase] | Any


@dataclass(frozen=True)
class LogKeys:
    r"""Where a log's rows have what.

    Attributes:
        action: what the logging policy did, ``[n]`` or ``[n, 1]``, or ``[n, D]`` for vectors.
        reward: what it earned, ``[n]`` or ``[n, 1]``.
        propensity: :math:`\pi_b(a|x)`, ``[n]`` or ``[n, 1]``.
        log_propensity: its logarithm, which is used where a log has both: probabilities of slates
            and semantic IDs vanish in float32, their logarithms do not.
        cluster: ids of what varies as a whole; the first of these that the rows have.
    """

    action: NestedKey = "action"
    reward: NestedKey = ("next", "reward")
    propensity: NestedKey = "propensity"
    log_propensity: NestedKey = "log_propensity"
    cluster: tuple[NestedKey, ...] = ("user", "trajectory_id", "slate")


class RowSample:
    """Rows of a log drawn at random without replacement, in storage order.

    A mean over them is an unbiased estimate of the mean over the log, and its standard error is
    that of so many rows: scoring 50,000 of 10 million rows costs a factor in precision, not truth.

    Args:
        log: rows of batch size [N], or a buffer.
        count: rows to draw; all of them where the log has no more.
        seed: of the drawing.

    Attributes:
        log: all rows.
        index: positions of the rows drawn, ascending int64 ``[n]``.

    Raises:
        TypeError: for blocks, which come one after the other.
        ValueError: for a count below 1.

    Example:
        >>> from tensordict import TensorDict
        >>> log = TensorDict({"action": torch.arange(100)}, [100])
        >>> sample = RowSample(log, 10, seed=0)
        >>> len(sample), bool((sample[torch.tensor([3])]["action"] == sample.index[3]).all())
        (10, True)
    """

    def __init__(self, log: Log, count: int, *, seed: int = 0) -> None:
        if not _is_indexed(log):
            raise TypeError(
                f"rows are drawn from a TensorDict or a buffer, got {type(log).__name__}; give the "
                "buffer itself and not its batches"
            )
        if count < 1:
            raise ValueError(f"count must be at least 1 row, got {count}")
        self.log = log
        drawn = np.arange(len(log))
        if count < len(log):
            chosen = np.random.default_rng(seed).choice(len(log), count, replace=False)
            drawn = np.sort(chosen)
        self.index = torch.from_numpy(drawn)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> TensorDictBase:
        """Rows by position in the sample."""
        found: TensorDictBase = self.log[self.index[rows]]
        return found

    def column(self, key: NestedKey) -> Tensor:
        """One column of the rows drawn."""
        return column(self.log, key)[self.index]


def blocks(log: Log, size: int) -> Iterator[TensorDictBase]:
    """All rows once, in order, at most ``size`` together (blocks that come so are left as is)."""
    if size < 1:
        raise ValueError(f"a block needs at least 1 row, got {size}")
    if isinstance(log, TensorDictBase):
        if len(log) > 0:
            yield from log.split(size)
    elif _is_indexed(log):
        for start in range(0, len(log), size):
            yield log[torch.arange(start, min(start + size, len(log)))]
    else:
        yield from log


def gathered(log: Log, block: int = 8192) -> TensorDictBase:
    """All rows in memory, as one TensorDict."""
    if isinstance(log, TensorDictBase):
        return log
    return torch.cat(list(blocks(log, block)))


def whole(log: Log) -> Log:
    """The log that a sample was drawn from; any other is whole."""
    return whole(log.log) if isinstance(log, RowSample) else log


def row_count(log: Log) -> int | None:
    """How many rows there are; ``None`` for blocks, of which nobody knows before the last."""
    return len(log) if _is_indexed(log) else None


def column(log: Log, key: NestedKey) -> Tensor:
    """One column of all rows."""
    if isinstance(log, TensorDictBase):
        return log.get(key)
    own = getattr(log, "column", None)
    found: Tensor = log[torch.arange(len(log))].get(key) if own is None else own(key)
    return found


def check_same_actions(log: Log, keys: LogKeys, action: Tensor, what: str) -> None:
    """Refuses a log with other actions than ``action``, as far as its length can be known.

    Raises:
        ValueError: if ``what`` was fitted to another log.
    """
    own = None if row_count(log) is None else column(log, keys.action)
    if own is not None and not torch.equal(own.reshape(-1).cpu(), action):
        raise ValueError(
            f"{what} were fitted to a log with other actions; fit them to this one, or to this "
            "sample of it"
        )


def logged_items(log: Log, keys: LogKeys, num_items: int) -> Tensor | None:
    """Which items any row of the whole log shows, bool ``[V]``; ``None`` for blocks."""
    everything = whole(log)
    if not _is_indexed(everything):
        return None
    action = column(everything, keys.action).reshape(-1)
    return torch.bincount(action.cpu().long(), minlength=num_items) > 0


def log_propensity_of(rows: TensorDictBase, keys: LogKeys) -> Tensor:
    """Logarithm of the logged propensity, float64 ``[n]``.

    Raises:
        KeyError: if the rows have none.
    """
    logged = rows.get(keys.log_propensity, None)
    if logged is None:
        plain = rows.get(keys.propensity, None)
        if plain is None:
            raise KeyError(
                f"the rows have neither {keys.log_propensity!r} nor {keys.propensity!r} (they have "
                f"{sorted(map(str, rows.keys(True, True)))}): pass the logging policy as "
                "behavior=, or what fit_behavior makes of the log"
            )
        logged = plain.double().log()
    return one_a_row(logged, rows, "the propensity").double()


def actions_of(rows: TensorDictBase, keys: LogKeys) -> Tensor:
    """The logged actions, ``[n]`` for items and ``[n, D]`` for vectors and codes.

    Raises:
        KeyError: if the rows have none.
    """
    action = rows.get(keys.action, None)
    if action is None:
        raise KeyError(
            f"the rows have no action {keys.action!r}; they have "
            f"{sorted(map(str, rows.keys(True, True)))}"
        )
    one = action.shape == (len(rows), 1) and not action.is_floating_point()
    return action[:, 0] if one else action


def cluster_of(rows: TensorDictBase, keys: LogKeys) -> Tensor | None:
    """Ids of what varies as a whole, int64 ``[n]``; ``None`` where rows are on their own."""
    for key in keys.cluster:
        found = rows.get(key, None)
        if found is not None:
            return whole_ids(str(key), one_a_row(found, rows, str(key)))
    return None


def distinct(
    rows: TensorDictBase, keys: Sequence[NestedKey] | None
) -> tuple[Tensor | None, Tensor | None]:
    """First rows of the states that differ, and which of these each row has; or two ``None``.

    >>> from tensordict import TensorDict
    >>> distinct(TensorDict({"x": torch.tensor([[5], [3], [5]])}, [3]), ["x"])
    (tensor([1, 0]), tensor([1, 0, 1]))
    """
    found = [] if keys is None else [rows.get(key, None) for key in keys]
    # By their bytes: as doubles, ids above 2^53 would be their neighbours'.
    columns = [
        each.detach().reshape(len(rows), -1).cpu().contiguous().view(torch.uint8)
        for each in found
        if each is not None
    ]
    if not columns or len(rows) < 2:
        return None, None
    state = np.ascontiguousarray(torch.cat(columns, -1).numpy())
    packed = state.view(np.dtype((np.void, state.dtype.itemsize * state.shape[1])))[:, 0]
    _, first, again = np.unique(packed, return_index=True, return_inverse=True)
    if len(first) == len(rows):
        return None, None
    return torch.from_numpy(first), torch.from_numpy(again.reshape(-1))


def one_a_row(values: Tensor, rows: TensorDictBase, what: str) -> Tensor:
    """The values as ``[n]``.

    Raises:
        ValueError: if there is not one a row.
    """
    if values.shape not in (rows.shape, (*rows.shape, 1)):
        raise ValueError(
            f"{what} must be one number a row, {list(rows.shape)}, got {list(values.shape)}"
        )
    return values.reshape(len(rows))


def _is_indexed(log: Log) -> bool:
    if isinstance(log, TensorDictBase):
        return True
    return not isinstance(log, list | tuple) and hasattr(log, "__len__")
