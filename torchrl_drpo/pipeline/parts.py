"""What a log's two parts hold, and what of the held-out rows training never showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.spelling import counted

#: Held-out rows, and best rows among them, below which a table is said to mean little: of 100
#: best rows a hit rate of .25 is known to within .09.
FEW_ROWS, FEW_GOOD = 1_000, 100
#: Share of held-out rows of items that training never showed, from which it is said aloud.
MANY_COLD = 0.1
#: Share of held-out rows up to which holding out more is advised.
SMALL_SHARE = 0.2


@dataclass(frozen=True)
class HeldOut:
    """The columns of the held-out rows that metrics are made of, each ``[N]`` but ``context``.

    Attributes:
        action: logged item, int64.
        quality: float32.
        user: whose row it is, int64; all zero where the log has no users, and GAUC is then AUC.
        labels: 0/1 feedback by name.
        context: numbers of the context columns' values, int64 ``[N, C]``; ``None`` where the log
            has no contexts.
        has_users: whether the log says whose rows they are.
        warm: rows of items that some training row showed, bool; ``None`` where nobody asked.
    """

    action: Tensor
    quality: Tensor
    user: Tensor
    labels: dict[str, Tensor]
    context: Tensor | None = None
    has_users: bool = True
    warm: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """Of what intervals are made: whose row it is, or each row by itself without users."""
        return self.user if self.has_users else torch.arange(len(self.user))

    def take(self, rows: Tensor) -> HeldOut:
        """The same columns of some rows."""
        labels = {name: values[rows] for name, values in self.labels.items()}
        context = None if self.context is None else self.context[rows]
        columns = (self.action[rows], self.quality[rows], self.user[rows])
        warm = None if self.warm is None else self.warm[rows]
        return HeldOut(*columns, labels, context, self.has_users, warm)


@dataclass(frozen=True)
class PartCounts:
    """How much a part of a log holds.

    Attributes:
        rows: of the part.
        users: whose they are; 0 where the log has no users.
        good: rows among the best by quality.
        poor: rows among the worst.
    """

    rows: int
    users: int
    good: int
    poor: int

    @classmethod
    def of(cls, quality: Tensor, user: Tensor | None, bounds: QualityBounds) -> PartCounts:
        """Counts of rows with their quality ``[N]`` and users ``[N]``."""
        good, poor = (quality >= bounds.best).sum(), (quality <= bounds.worst).sum()
        users = 0 if user is None else len(user.unique())
        return cls(len(quality), users, int(good), int(poor))

    def say(self, constant: bool) -> str:
        """All of it in words; where all rows are worth the same, none is good or poor."""
        users = f" of {counted(self.users, 'user')}" if self.users else ""
        worth = "" if constant else f", {self.good:,} of them good and {self.poor:,} poor"
        return f"{counted(self.rows, 'row')}{users}{worth}"


@dataclass(frozen=True)
class PartFacts:
    """Both parts, and what of the held-out one is new.

    Attributes:
        held_out: what is held out, for people.
        first_test_day: ``YYYY-MM-DD``, None where no time decides.
        train: the training rows.
        test: the held-out rows.
        cold_rows: held-out rows of items that no training row showed.
        cold_items: these items.
        cold_users: users of held-out rows who have no training row.
        constant: whether all training rows are worth the same.
        times: what is wrong with the log's times, None where nothing seems to be.
        column: that says what is held out, None where none does.
    """

    held_out: str
    first_test_day: str | None
    train: PartCounts
    test: PartCounts
    cold_rows: int
    cold_items: int
    cold_users: int
    constant: bool = False
    times: str | None = None
    column: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PartFacts:
        """The facts that :meth:`to_json` gave.

        Raises:
            KeyError, TypeError: for what is not such data.
        """
        train, test = (PartCounts(**data[name]) for name in ("train", "test"))
        return cls(**{**data, "train": train, "test": test})

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is learned from and what is judged by, a line each."""
        users = f"; {counted(self.cold_users, 'new user')}" if self.cold_users else ""
        rows, items = counted(self.cold_rows, "row"), counted(self.cold_items, "item")
        return (
            f"training: {self.train.say(self.constant)}",
            f"held out ({self.held_out}): {self.test.say(self.constant)}; {rows} "
            f"({self.cold_rows / max(self.test.rows, 1):.1%}) of {items} that training never "
            f"showed{users}",
        )

    @property
    def _to_hold_out_more(self) -> str:
        if self.column is not None:
            return f"Let the column {self.column!r} name more rows of 'test'."
        if self.test.rows < 0.9 * SMALL_SHARE * (self.train.rows + self.test.rows):
            return f"Hold out more, by --test-share {SMALL_SHARE} for one."
        return "Of a log of this size a larger --test-share takes rows from training: log more."

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the table may mean less than it seems to."""
        found = []
        if self.times is not None:
            found.append(f"{self.times[0].upper()}{self.times[1:]}.")
        if self.test.rows < FEW_ROWS or (self.test.good < FEW_GOOD and not self.constant):
            found.append(
                f"Only {counted(self.test.rows, 'held-out row')}"
                f"{'' if self.constant else f', {self.test.good:,} of them good'}: too few for "
                f"numbers to mean much. {self._to_hold_out_more}"
            )
        if self.cold_rows > MANY_COLD * self.test.rows:
            share = self.cold_rows / self.test.rows
            found.append(
                f"{share:.0%} of the held-out rows are of items that training never showed. A "
                "policy over item numbers misses them all; one over vectors or codes of an item "
                "table can rank them. The columns of warm rows leave them out."
            )
        return tuple(found)


def check_parts(rows: Mapping[str, int], split: str | None, test: str = "test") -> None:
    """Raises ``ValueError`` unless some rows are trained on, and some held out as ``test``."""
    wanted = ("train", "test", test)
    absent = [name for name in wanted if not rows.get(name)]
    if not absent:
        return
    mend = (
        "hold out fewer or more of the training rows, by --validation-days or --validation-share"
        if test != "test"
        else f"its split column {split!r} must name rows of 'train' and of 'test'"
        if split
        else "hold out fewer or more, by --test-share 0.2 for one, or --test-days or --test-start"
    )
    counts = ", ".join(f"{name}: {count}" for name, count in rows.items())
    raise ValueError(f"the log has no rows in the part {absent[0]!r} ({counts}); {mend}")
