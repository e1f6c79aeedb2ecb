"""A log's rows as a policy numbers them, which may have been trained on another log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import raw_ids
from torchrl_drpo.pipeline.rows import SplitLog


@dataclass(frozen=True)
class Numbering:
    """From a log's numbers to a policy's, matched by raw ids.

    Attributes:
        items: the policy's number of each item of the log, -1 for one that it does not know.
        contexts: the same of each context column's values.
        clock: the policy's ticks in one of the log's: a file of timestamps or floats counts
            microseconds where one of integers counts what its schema says.
    """

    items: Tensor
    contexts: list[Tensor]
    clock: Fraction = Fraction(1)

    @classmethod
    def of(cls, data: SplitLog, checkpoint: PolicyCheckpoint) -> Numbering:
        """For a log and a policy.

        Raises:
            ValueError: for ids of another type, integers or strings.
        """
        columns = zip(data.log.contexts.values(), checkpoint.contexts, strict=True)
        here = data.log.ticks_per_second
        return cls(
            _renumber(data.items, checkpoint.items),
            [_renumber(theirs, ours) for theirs, ours in columns],
            Fraction(checkpoint.facts.get("ticks_per_second", here), here),
        )

    @classmethod
    def identity(cls, data: SplitLog) -> Numbering:
        """For a policy that was trained on this very log."""
        sizes = [data.num_items, *data.context_sizes]
        items, *contexts = (torch.tensor([*range(size), -1]) for size in sizes)
        return cls(items, contexts)

    def apply(self, rows: TensorDictBase) -> TensorDictBase:
        """Renumbers rows in place: their items, histories and contexts, and histories' times."""
        rows["action"] = self.items[rows["action"]]
        rows["observation", "history"] = self.items[rows["observation", "history"]]
        times = rows.get(("observation", "history_time"), None)
        if times is not None and self.clock != 1:
            own = times * self.clock.numerator // self.clock.denominator
            rows["observation", "history_time"] = own
        if self.contexts:
            columns = rows["observation", "context"].unbind(-1)
            rows["observation", "context"] = torch.stack(
                [table[column] for table, column in zip(self.contexts, columns, strict=True)], -1
            )
        return rows


class NumberedRows:
    """Rows of a part of a log as a policy numbers them, read where they are asked for.

    Args:
        data: the log.
        part: of it, ``"train"`` or ``"test"``.
        numbering: to the policy's.
        only_known: whether rows of items that the policy does not know are left out. Otherwise
            they show the first known item in place of theirs, and ``known`` tells them apart.

    Attributes:
        known: which of these rows show an item that the policy knows, bool ``[N]``.

    Raises:
        ValueError: if the policy knows none of the items shown.
    """

    def __init__(
        self, data: SplitLog, part: str, numbering: Numbering, *, only_known: bool = True
    ) -> None:
        self._data, self._part, self._numbering = data, part, numbering
        action = numbering.items[data.log.split(part).column("action")]
        known = action >= 0
        if not known.any():
            which = "held-out" if part == "test" else "training"
            raise ValueError(
                f"none of the {len(action)} {which} rows shows an item that the policy knows; is "
                "this the log of another catalogue?"
            )
        self._stand_in = int(action[known][0])
        self._index = known.nonzero()[:, 0] if only_known else torch.arange(len(action))
        self.known = known[self._index]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: Tensor) -> TensorDictBase:
        """Rows by position among these."""
        found = self._data.rows_at(self._part, self._index[rows])
        return self._filled(self._numbering.apply(found))

    def column(self, key: NestedKey) -> Tensor:
        """One column of all rows; items are the policy's, other columns as stored."""
        column = self._data.log.split(self._part).column(key)[self._index]
        if key != "action":
            return column
        item = self._numbering.items[column]
        return torch.where(self.known, item, self._stand_in)

    def blocks(self, size: int) -> Iterator[TensorDictBase]:
        """All rows in order, at most ``size`` together."""
        for positions in torch.arange(len(self)).split(size):
            yield self[positions]

    def _filled(self, rows: TensorDictBase) -> TensorDictBase:
        action = rows["action"]
        rows["action"] = torch.where(action >= 0, action, self._stand_in)
        return rows


def _renumber(theirs: Catalogue, ours: Catalogue) -> Tensor:
    """Our number of each of their numbers, -1 for an unknown id; entry -1 maps to -1 too."""
    if len(theirs) and len(ours) and theirs.is_integer != ours.is_integer:
        kinds = ["integers" if c.is_integer else "strings" for c in (theirs, ours)]
        raise ValueError(f"the log's ids are {kinds[0]}, the policy's are {kinds[1]}")
    numbers = ours.encode(raw_ids(theirs), unknown="missing")
    return torch.cat([numbers, numbers.new_tensor([-1])])  # so that index -1 finds -1
