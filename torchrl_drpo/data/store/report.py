"""What a conversion counted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any


def fault_name(kind: str, column: str | None) -> str:
    """What a fault is called, with the column whose values are wrong, where it is one's alone.

    Example:
        >>> fault_name("missing id", "user"), fault_name("duplicate rows", None)
        ('missing id in user', 'duplicate rows')
    """
    return kind if column is None else f"{kind} in {column}"


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion read, dropped and wrote.

    Args:
        rows_read: rows of the log's files.
        rows: rows kept.
        duplicates: exact duplicate rows left out; 0 where the schema keeps them, uncounted.
        dropped: rows left out for a fault, by its name and column (``"missing id in user"``), as
            :func:`~torchrl_drpo.data.validate_log` counts them: a row with several faults counts in
            each, and all of them are ``rows_read - rows - duplicates``.
        users: users of the log.
        items: size of the catalogue.
        items_logged: items that a kept row showed.
        unknown_items: logged items that the item table lacks (they joined the catalogue).
        trajectories: trajectories; every row is one where the log is stored as logged.
        sessions_cut: how often a session went on after rows of another of the same user; each piece
            is a trajectory of its own.
        slates: slates, zero where the schema has none.
        parts: rows of each part (train, test, ...).
        first_test_day: first day of the test period, ``YYYY-MM-DD``; None where no time decides.
        held_out: what the test part is, for people; None without one.
        initial_history_users: users with a history from before the log.
        missing_tables: optional side tables that were not there.
        tied_rows: rows that share user and time with another: neither is in the other's history.
    """

    rows_read: int = 0
    rows: int = 0
    duplicates: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    users: int = 0
    items: int = 0
    items_logged: int = 0
    unknown_items: int = 0
    trajectories: int = 0
    sessions_cut: int = 0
    slates: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    first_test_day: str | None = None
    held_out: str | None = None
    initial_history_users: int = 0
    missing_tables: tuple[str, ...] = ()
    tied_rows: int = 0

    def replace(self, **changes: Any) -> ConversionReport:
        """A copy with some counts changed."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2)
