"""Rows that hold lists: impressions with the items that were shown, sessions with their events."""

from __future__ import annotations

from dataclasses import dataclass

from .types import check_once, check_types


@dataclass(frozen=True)
class Lists:
    """Each row of the log becomes as many rows as its lists have entries, one after another.

    The other columns are repeated. Two columns come in: a number for each row of the log
    (``number``: declare it as ``slate`` where a row is an impression without an id of its own),
    and the entry's place in the list (``place``, from zero: declare it as ``position``).

    Args:
        columns: list columns that are as long as one another in every row. A column of structures
            (JSON's objects) becomes the columns of their fields. With ``separator`` they are texts.
        chosen: a list column of items: becomes 1 in rows whose entry of ``columns[0]`` is among
            them, else 0. Or, with ``mark``, the name of the column of what follows the mark.
        separator: what stands between entries, where lists are written as texts (CSV); brackets
            and quotes around them are left out.
        mark: what stands between an item and whether it was chosen, in entries of ``columns[0]``:
            ``"-"`` where these are ``"N1-0 N2-1"``.
        number: name of the column that numbers the log's rows.
        place: name of the column of places.

    Raises:
        ValueError: if the parts do not fit together.

    Examples:
        >>> Lists(columns=["shown", "dwell"], chosen="clicked").columns
        ('shown', 'dwell')
        >>> Lists(columns=["shown"], mark="-")
        Traceback (most recent call last):
        ValueError: lists.mark needs `separator`, which ends an entry, and `chosen`, a name for ...
    """

    columns: tuple[str, ...]
    chosen: str | None = None
    separator: str | None = None
    mark: str | None = None
    number: str = "list_number"
    place: str = "list_place"

    def __post_init__(self) -> None:
        check_types(self, "lists.")
        check_once((*self.columns, *((self.chosen,) if self.chosen else ())), "lists: column")
        if not self.columns:
            raise ValueError("lists.columns must name a list column, such as the items shown")
        if self.mark is not None and (self.chosen is None or self.separator is None):
            raise ValueError(
                "lists.mark needs `separator`, which ends an entry, and `chosen`, a name for the "
                "column of what follows the mark"
            )
        check_once((self.number, self.place), "lists: column")
