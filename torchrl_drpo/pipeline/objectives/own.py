"""Objectives of a user's own, by reference: ``mymodule:MyLoss``, imported when it is asked for.

Naming one runs its module's code, as importing it does. Nothing else does: what a checkpoint says
of its objective is a text.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import field, make_dataclass
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torchrl_drpo.pipeline.objectives.options import ObjectiveOptions
from torchrl_drpo.references import is_reference, load_reference, source_digest

#: What a reference is to be, for messages.
WHAT = "objective"


def file_name(name: str) -> str:
    """An objective's name in names of files, where a colon cannot stand everywhere.

    Example:
        >>> file_name("mymodule:MyLoss"), file_name("bc-tilt")
        ('mymodule.MyLoss', 'bc-tilt')
    """
    return name.replace(":", ".")


def load(reference: str) -> Callable[..., Any]:
    """What makes a loss of an actor; see :func:`~torchrl_drpo.references.load_reference`."""
    return load_reference(reference, WHAT)


def digests_of_code(objective: str, encoder: str) -> list[str]:
    """Digests of the user's own code that a run consists of: none of names that are ours."""
    named = {WHAT: objective, "encoder": encoder}
    return [source_digest(each, what) for what, each in named.items() if is_reference(each)]


@functools.lru_cache
def own_options(reference: str) -> ObjectiveOptions:
    """The options of an own objective: its annotated keyword arguments that have defaults.

    Raises:
        ValueError: as :func:`load`, or for an argument beside the actor without a default.
    """
    made = load(reference)
    call = made.__init__ if inspect.isclass(made) else made
    parameters = list(inspect.signature(call).parameters.values())
    parameters = parameters[1:] if inspect.isclass(made) else parameters
    hints = _types(call)
    options = []
    for place, each in enumerate(parameters):
        if place == 0 or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue  # the actor; and what cannot be named
        if each.default is each.empty:
            raise ValueError(
                f"objective {reference!r}: its argument {each.name!r} has no default; it is called "
                "with the actor alone, and with those options that --set names"
            )
        if each.kind is not each.POSITIONAL_ONLY and _can_be_read(hints.get(each.name)):
            options.append((each.name, hints[each.name], field(default=each.default)))
    return make_dataclass(  # type: ignore[no-any-return]
        "OwnOptions",
        options,
        bases=(ObjectiveOptions,),
        frozen=True,
        namespace={"reference": reference},
    )()


def _types(call: Any) -> dict[str, Any]:
    """The types of what is called, but for annotations that only a type checker can follow.

    Such as those of a name that is imported under ``TYPE_CHECKING``, as torchrl_drpo's losses have.
    """
    while isinstance(call, functools.partial):
        call = call.func
    call = call.__init__ if inspect.isclass(call) else inspect.unwrap(call)
    found = {}
    for name, said in getattr(call, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: said})
        with contextlib.suppress(NameError, AttributeError, TypeError, SyntaxError):
            found |= get_type_hints(one, globalns=getattr(call, "__globals__", {}))
    return found


def _can_be_read(hint: Any) -> bool:
    """Whether ``--set`` can say a value of a type."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(_can_be_read, get_args(hint)))
    if get_origin(hint) is tuple:
        return Ellipsis not in get_args(hint) and all(map(_can_be_read, get_args(hint)))
    if get_origin(hint) is Literal:
        return all(isinstance(each, str) for each in get_args(hint))
    return hint in (bool, int, float, str, NoneType)
