"""The type of every field of a schema: one check for all its classes, one sentence for a fault."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

_NAME = "the name of a column or another text that is not empty"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


#: Annotation -> (whether a value is one, what is expected).
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_is_text, _NAME),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (_is_whole, "a whole number"),
    "float": (_is_number, "a finite number"),
    "int | str": (lambda value: _is_whole(value) or _is_text(value), "a whole number or a text"),
    "dict[str, float]": (
        lambda value: (
            isinstance(value, dict)
            and len(value) > 0
            and all(_is_text(key) and _is_number(worth) for key, worth in value.items())
        ),
        'texts and their finite numbers, such as {"click": 1}',
    ),
    "tuple[str, ...]": (
        lambda value: isinstance(value, tuple) and all(map(_is_text, value)),
        "a tuple of column names",
    ),
}


def check_types(part: Any, where: str = "", classes: Mapping[str, Any] | None = None) -> None:
    """Checks every field of a frozen dataclass against its annotation; lists become tuples.

    Args:
        part: the dataclass.
        where: what stands before a field's name in messages, such as ``"items."``.
        classes: annotations that name classes, and these.

    Raises:
        ValueError: names the field, what was expected and what it holds.

    Examples:
        >>> from torchrl_drpo.data.schema import ItemTable
        >>> ItemTable("items.csv", "id", codes=["a", "b"]).codes
        ('a', 'b')
        >>> ItemTable("items.csv", None)
        Traceback (most recent call last):
        ValueError: items.id must be the name of a column or another text that is not empty, got...
    """
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(part, field.name, value)
        annotation = str(field.type).removesuffix(" | None")
        if annotation != field.type and value is None:
            continue
        if classes and annotation in classes:
            fits, wanted = isinstance(value, classes[annotation]), f"of type {annotation}"
        else:
            check, wanted = _KINDS[annotation]
            fits = check(value)
        if not fits:
            name = f"{where}{field.name}"
            hint = ""
            if isinstance(value, str) and annotation.startswith("tuple") and value:
                hint = f"; write {field.name}=({value!r},)"
            raise ValueError(f"{name} must be {wanted}, got {shown(value)}{hint}")


def check_once(names: tuple[str, ...], what: str) -> None:
    """Raises ``ValueError`` where a name stands twice; ``what`` is one of them, in words."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"{what} {name!r} is named twice; name each column once")


def shown(value: Any, most: int = 60) -> str:
    """A value as it is written, cut short: what was given may be a page long.

    >>> shown("x" * 100, 10)
    "'xxxxxxx..."
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 2]}..."
