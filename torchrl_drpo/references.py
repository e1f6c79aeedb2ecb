"""Code of a user's own, by reference: ``mymodule:name``, imported when somebody names it.

Naming one runs its module's code, as importing it does. What a checkpoint says is not enough: one
that names code is refused until its reader allows that very reference (:func:`allowing`).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torchrl_drpo.files import digest, fingerprint
from torchrl_drpo.spelling import did_you_mean

_ALLOWED: ContextVar[frozenset[str]] = ContextVar("allowed references", default=frozenset())

#: Names of the modules that references were loaded from.
_LOADED: set[str] = set()


def is_reference(name: str) -> bool:
    """Whether a name is ``module:attribute``, and none of this package's own."""
    return ":" in name


def is_well_formed(name: str) -> bool:
    """Whether a name is a reference made of Python's names.

    Example:
        >>> is_well_formed("package.module:name"), is_well_formed("../module:name")
        (True, False)
    """
    module, _, attribute = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), attribute))


def load_reference(reference: str, what: str) -> Callable[..., Any]:
    """What a reference stands for; its module is looked for in the current folder first.

    Args:
        reference: ``module:name``.
        what: it is to be, for messages.

    Raises:
        ValueError: for a module that cannot be imported, a name that it lacks, or what is no
            callable.

    Example:
        >>> load_reference("math:sqrt", "function")(4)
        2.0
    """
    if not is_well_formed(reference):
        raise ValueError(f"{reference!r} is no reference; expected module:name, as mymodule:name")
    module, _, name = reference.partition(":")
    try:
        with _current_folder():
            found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} {reference!r}: cannot import {module} ({error}); it is looked for in the "
            "current folder and among installed packages"
        ) from None
    except Exception as error:  # of whatever the module does
        raise ValueError(
            f"{what} {reference!r}: importing {module} raised {type(error).__name__}: {error}"
        ) from error
    _LOADED.add(module)
    made = getattr(found, name, None)
    if made is None:
        raise ValueError(
            f"{what} {reference!r}: {module} has no {name!r}{did_you_mean(name, dir(found))}"
        )
    if not callable(made):
        raise ValueError(
            f"{what} {reference!r} is a {type(made).__name__}; expected a class or a function"
        )
    return made  # type: ignore[no-any-return]


def place_in_own_code(error: BaseException) -> str:
    """Where in a referenced module an error was raised, or passed through; empty for nowhere.

    Example:
        >>> place_in_own_code(ValueError())
        ''
    """
    place, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") in _LOADED:
            code = trace.tb_frame.f_code
            place = f"{Path(code.co_filename).name}, line {trace.tb_lineno}, in {code.co_name}"
        trace = trace.tb_next
    return place


def source_digest(reference: str, what: str) -> str:
    """SHA-256 of the file that a reference's module was read from; empty where there is none.

    Of two files, where the module has the thing from another one. So that a run with code that has
    changed since is another run; what else these modules import is not looked at.
    """
    made = load_reference(reference, what)
    while isinstance(made, functools.partial):
        made = made.func
    names = dict.fromkeys((reference.partition(":")[0], getattr(made, "__module__", None)))
    files = [getattr(sys.modules.get(name or ""), "__file__", None) for name in names]
    found = [digest(file) for file in files if file is not None and Path(file).is_file()]
    return found[0] if len(found) == 1 else (fingerprint(found) if found else "")


@contextmanager
def allowing(*references: str) -> Iterator[None]:
    """Lets :func:`load_allowed` import these references within the block."""
    token = _ALLOWED.set(_ALLOWED.get() | frozenset(references))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def load_allowed(reference: str, what: str) -> Callable[..., Any]:
    """As :func:`load_reference`, of a reference that somebody has allowed (:func:`allowing`).

    Raises:
        ValueError: for any other one, whose module is not imported.

    Example:
        >>> load_allowed("math:sqrt", "function")
        Traceback (most recent call last):
        ...
        ValueError: function 'math:sqrt' is code that is not this package's, ...
    """
    if reference not in _ALLOWED.get():
        raise ValueError(
            f"{what} {reference!r} is code that is not this package's, and a checkpoint or settings"
            " that name it do not run it; if you trust the module on this machine, allow it by "
            f"--allow-code {reference} (in Python: torchrl_drpo.references.allowing)"
        )
    return load_reference(reference, what)


@contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder is the first that modules are looked for in, as with ``python -m``."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
