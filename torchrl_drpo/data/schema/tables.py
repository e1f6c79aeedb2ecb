"""Tables that lie beside a log: its items, and what its users did before it begins."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    path: str
    id: str
    codes: tuple[str, ...] = ()
    embedding: str | None = None
    features: tuple[str, ...] = ()
    features_until: str | None = None
    required: bool = True


@dataclass(frozen=True)
class InitialHistory:
    """What users did before the log begins: one row a user, a list of item ids, oldest first.

    Args:
        path: its file; relative paths start at the log's folder.
        user: column of the user id.
        items: list column of item ids.
        required: whether a missing file is an error; else it is reported and left out.
    """

    path: str
    user: str
    items: str
    required: bool = True
