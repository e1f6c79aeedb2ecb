"""What is held out of a log, as it is asked for: its last days, or a share of its rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any, Literal

#: How a share is taken: the latest rows of the log, the latest of each user, or any.
SHARES_BY = ("time", "user", "random")
#: Days that are held out where nobody says how many.
AUTO_DAYS = 3


@dataclass(frozen=True)
class Split:
    """How the part ``"test"`` is told from ``"train"``; nothing is held out by default.

    Args:
        days: the last so many days, at least 1; ``"auto"`` for :data:`AUTO_DAYS`, or fewer where
            the log has so few that less than half of them would be left to train on; or
        start: the first day, ``"YYYY-MM-DD"``; or
        share: about this share of the rows, in (0, 1),
        by: taken from the log's latest rows (``"time"``, which is what ``None`` means: rows of one
            instant stay together), from each user's latest (``"user"``: one row at least stays in
            training), or drawn (``"random"``) with
        seed: which a row's content is mixed with, so that the order of the file's rows does not
            count and identical rows stay together; in a log without user and time the row's number.
        inside: what is held out once more, of the rows that this one leaves, as the part
            ``"validation"``; in the same way: days of days, a share of a share.

    Raises:
        ValueError: for two ways at once, or a value out of its range.
    """

    days: int | Literal["auto"] | None = None
    start: str | None = None
    share: float | None = None
    by: str | None = None
    seed: int = 0
    inside: Split | None = None

    def __post_init__(self) -> None:
        given = {f"test_{name}": getattr(self, name) for name in ("days", "start", "share")}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both {tuple(given.values())}")
        if isinstance(self.days, str) and self.days != "auto":
            raise ValueError(f"test_days must be a number or 'auto', got {self.days!r}")
        if isinstance(self.days, int) and self.days < 1:
            raise ValueError(f"test_days must be at least 1, got {self.days}")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"test_share must lie in (0, 1), got {self.share}")
        if self.by is not None and self.share is None:
            raise ValueError(f"test_by={self.by!r} says how a share is taken; give test_share too")
        if self.by not in (None, *SHARES_BY):
            raise ValueError(f"test_by must be one of {', '.join(SHARES_BY)}, got {self.by!r}")
        if self.start is not None:
            try:
                date.fromisoformat(self.start)
            except ValueError:
                raise ValueError(f"test_start must be YYYY-MM-DD, got {self.start!r}") from None
        if self.inside is not None and self.asked:
            alike = (self.inside.share is None, self.inside.by) == (self.share is None, self.by)
            if not alike or self.inside.start is not None:
                way = "validation_days" if self.share is None else "validation_share"
                raise ValueError(
                    f"validation rows are held out of the training rows as test rows are of the "
                    f"log; give {way}"
                )

    @classmethod
    def within(cls, outer: Split, days: int | Literal["auto"] | None, share: float | None) -> Split:
        """The same split, of whose training rows the last days or a share become another part.

        Raises:
            ValueError: for both, or what is out of range.
        """
        if days is not None and share is not None:
            raise ValueError("give validation_days or validation_share, not both")
        try:
            if days is not None:
                inside = cls(days=days)
            else:  # of a draw with the same seed, the rows that it left would be left once more
                by = outer.by if outer.asked else "random"
                inside = cls(share=share, by=by, seed=outer.seed + 1)
        except ValueError as error:
            raise ValueError(str(error).replace("test_", "validation_")) from None
        return replace(outer, inside=inside)

    def to_json(self) -> dict[str, Any]:
        """As JSON data, and as it was before there was anything inside where there is nothing."""
        plain = asdict(self)
        if self.inside is None:
            del plain["inside"]
        return plain

    @property
    def asked(self) -> bool:
        """Whether anything is to be held out."""
        return not (self.days is None and self.start is None and self.share is None)

    @property
    def by_time(self) -> bool:
        """Whether the log's latest rows are held out by their share."""
        return self.share is not None and self.by in (None, "time")

    @property
    def draws(self) -> bool:
        """Whether rows are drawn."""
        return self.by == "random"

    def describe(self, first: str | None) -> str:
        """What is held out, for people; ``first`` is the first day or instant."""
        if self.share is None:
            return f"rows from {first} on"
        share = f"{100 * self.share:g}% of the"
        if self.by == "user":
            return f"the latest {share} rows of each user"
        if self.draws:
            return f"{share} rows, drawn with seed {self.seed}"
        return f"the latest {share} rows, from {first} on"


#: Nothing is held out.
NO_SPLIT = Split()
