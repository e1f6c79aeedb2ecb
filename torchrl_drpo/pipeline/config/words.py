"""Options whose values are words of the user's own: every text is that text, ``None`` too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec


def _given(metavar: str, nargs: int | str, read: Callable[[list[str]], Any]) -> Any:
    """For tyro: an option that is ``None`` unless it is given, and then never is."""
    return PrimitiveConstructorSpec(
        nargs=nargs,  # type: ignore[arg-type]
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, str | tuple),
        str_from_instance=lambda value: [value] if isinstance(value, str) else list(value or ()),
    )


#: An id, as it is written in the log.
Id = Annotated[str | None, _given("ID", 1, lambda words: words[0])]
#: Where a log lies.
Log = Annotated[str | None, _given("LOG", 1, lambda words: words[0])]
#: A name.
Name = Annotated[str | None, _given("NAME", 1, lambda words: words[0])]
#: Names; none at all is an empty tuple, and not ``None``.
Names = Annotated[tuple[str, ...] | None, _given("NAME [NAME ...]", "*", tuple)]
