"""Tables that lie beside a log: its items, and what its users did before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from .files import TextFiles
from .types import check_once, check_types


@dataclass(frozen=True)
class ItemTable:
    """The table of items: one row an item.

    Args:
        path: its file (Parquet, CSV); relative paths start at the log's folder.
        id: column of the item id.
        codes: columns of a semantic ID, coarsest level first.
        embedding: a list column, one vector an item.
        features: numeric columns of an item, looked at by the validation's leakage check; no
            sample holds them (:attr:`LogSchema.features` are a row's).
        features_until: last day (``"YYYY-MM-DD"``) whose rows went into ``features`` that are
            aggregates. Features that reach into the test period tell the answers.
        required: whether a missing file is an error; else it is reported and left out.
        files: what the table leaves open where it is a text file.
    """

    path: str
    id: str
    codes: tuple[str, ...] = ()
    embedding: str | None = None
    features: tuple[str, ...] = ()
    features_until: str | None = None
    required: bool = True
    files: TextFiles | None = None

    def __post_init__(self) -> None:
        check_types(self, "items.", {"TextFiles": TextFiles})
        check_once(self.codes, "items: code")
        check_once(self.features, "items: feature")
        if self.features_until is not None and not _is_day(self.features_until):
            raise ValueError(
                f"items.features_until must be YYYY-MM-DD, got {self.features_until!r}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a conversion reads, once; `features` are for the validation alone."""
        vectors = (self.embedding,) if self.embedding else ()
        return tuple(dict.fromkeys([self.id, *self.codes, *vectors]))

    @property
    def ids(self) -> tuple[str, ...]:
        """Columns whose values are ids; see :attr:`LogSchema.ids`."""
        return (self.id,)


@dataclass(frozen=True)
class InitialHistory:
    """What users did before the log begins: one row a user, a list of item ids, oldest first.

    Args:
        path: its file; relative paths start at the log's folder.
        user: column of the user id.
        items: list column of item ids; what is null, empty or negative is padding, no item.
        required: whether a missing file is an error; else it is reported and left out.
        padding: another id that stands for no item, such as ``0`` or ``"[PAD]"``.
        files: what the table leaves open where it is a text file.
    """

    path: str
    user: str
    items: str
    required: bool = True
    padding: int | str | None = None
    files: TextFiles | None = None

    def __post_init__(self) -> None:
        check_types(self, "initial_history.", {"TextFiles": TextFiles})

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        return (self.user, self.items)

    @property
    def ids(self) -> tuple[str, ...]:
        """Columns whose values are ids; see :attr:`LogSchema.ids`."""
        return (self.user,)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
