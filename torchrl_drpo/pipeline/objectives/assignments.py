"""Options of objectives as a command line gives them: ``drpo.kappa=0.2``, ``tilt.tau=0.1``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torchrl_drpo.pipeline.objectives.named import find_objective
from torchrl_drpo.spelling import did_you_mean

#: Parts that several objectives have, which may be named instead of an objective.
PARTS = ("tilt", "condition")


def assigned(assignments: Sequence[str], objectives: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by objective.

    Args:
        assignments: each ``NAME.OPTION=VALUE``, where NAME is one of the objectives, or a part
            (``tilt``, ``condition``) of all that have it.
        objectives: names of those that are trained.

    Raises:
        ValueError: for one that cannot be read, an objective that is not trained, an unknown
            option, or a value of another type.

    Example:
        >>> assigned(["drpo.kappa=0.2", "tilt.tau=0.1"], ["drpo", "bc-tilt"])
        {'drpo': {'kappa': 0.2}, 'bc-tilt': {'tau': 0.1}}
    """
    out: dict[str, dict[str, Any]] = {}
    for text in assignments:
        target, equals, value = text.partition("=")
        name, dot, option = target.strip().rpartition(".")
        if not (equals and dot and name and option):
            raise ValueError(f"--set takes NAME.OPTION=VALUE, such as drpo.kappa=0.2, got {text!r}")
        for each in _meant(name, text, objectives):
            hint = _types(each).get(option)
            if hint is None:
                find_objective(each, {option: value})  # says what there is
            out.setdefault(each, {})[option] = _read(value.strip(), hint, text)
    return out


def _meant(name: str, text: str, objectives: Sequence[str]) -> list[str]:
    """The objectives that an assignment is about."""
    if name in objectives:
        return [name]
    found = []
    if name in PARTS:
        found = [each for each in objectives if getattr(find_objective(each), name) is not None]
    if not found:
        hint = did_you_mean(name, [*objectives, *PARTS])
        raise ValueError(
            f"--set {text}: {name!r} is none of the objectives that are trained{hint} "
            f"({', '.join(objectives)}), nor a part (tilt, condition) of one"
        )
    return found


def _types(name: str) -> dict[str, Any]:
    """Types of an objective's options, those of its parts included."""
    objective = find_objective(name)
    parts = (objective.options, objective.condition, objective.tilt)
    return {
        option: hint
        for part in parts
        if part is not None
        for option, hint in get_type_hints(type(part)).items()
    }


def _read(value: str, hint: Any, text: str) -> Any:
    """A value of one of the types that ``hint`` allows."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    allowed = sorted(allowed, key=lambda kind: kind is str)  # every text is one
    for kind in allowed:
        with contextlib.suppress(ValueError):
            return _as(value, kind)
    wanted = " or ".join(map(_describe, allowed))
    raise ValueError(f"--set {text}: expected {wanted}, got {value!r}")


def _as(value: str, kind: Any) -> Any:
    if kind is NoneType and value.lower() == "none":
        return None
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if get_origin(kind) is tuple:
        parts, kinds = value.strip("()").split(","), get_args(kind)
        if len(parts) == len(kinds):
            return tuple(_as(part.strip(), each) for part, each in zip(parts, kinds, strict=True))
    if kind in (int, float, str):
        return kind(value)
    raise ValueError


def _describe(kind: Any) -> str:
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return ",".join(map(_describe, get_args(kind)))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def spelled(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The assignments that stand for options by objective; :func:`assigned` reads them back.

    Example:
        >>> spelled({"drpo": {"kappa": 0.2, "kappa_bounds": (0.05, 1.0)}, "bc-tilt": {"tau": None}})
        ['drpo.kappa=0.2', 'drpo.kappa_bounds=0.05,1.0', 'bc-tilt.tau=none']
    """
    return [
        f"{name}.{option}={_spelled(value)}"
        for name, given in options.items()
        for option, value in given.items()
    ]


def _spelled(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_spelled, value))
    return str(value)


def merged(
    options: Mapping[str, Mapping[str, Any]], more: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Options by objective, those of ``more`` in place of those of ``options``."""
    names = dict.fromkeys([*options, *more])
    return {name: {**options.get(name, {}), **more.get(name, {})} for name in names}
