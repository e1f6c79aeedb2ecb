"""``drpo``: a command's name and options in; tables, files or JSON out.

Bad input ends with exit code 2 and one line that says what was wrong. An error of any other kind is
a fault of this program, and the line says so; or of code of the user's own, and it says where.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torchrl_drpo import __version__
from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.options import OptionError, parse
from torchrl_drpo.references import place_in_own_code
from torchrl_drpo.spelling import did_you_mean, printable

#: What bad input raises. Of other kinds are faults: they are not expected to happen.
_REFUSALS = (ValueError, KeyError, OSError, TypeError, MemoryError, ModuleNotFoundError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``drpo``; returns the exit code: 0, 2 for bad input or a fault, 130 when interrupted."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `drpo ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("DRPO_TRACEBACK"):
            raise
        return _refuse(_one_line(error))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"torchrl-drpo {__version__}")
        return 0
    name, *options = argv
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        return _refuse(f"unknown command {name!r}{hint}; choose one of {', '.join(COMMANDS)}")
    # Storages announce themselves. What is imported later, or in a worker, reads the variable.
    level = os.environ["RL_LOGGING_LEVEL"] = os.environ.get("RL_LOGGING_LEVEL") or "WARNING"
    try:
        logging.getLogger("torchrl").setLevel(level)
    except ValueError:
        known = "DEBUG, INFO, WARNING, ERROR and CRITICAL"
        return _refuse(f"RL_LOGGING_LEVEL is {level!r}, but torchrl knows {known}; unset it")
    command = COMMANDS[name]
    try:
        config = parse(_load(command.config), options, prog=f"drpo {name}")
    except ModuleNotFoundError as error:
        if error.name != "tyro":
            raise
        return _refuse("the command line needs its extra: pip install 'torchrl-drpo[cli]'")
    except OptionError as error:
        return _refuse(f"{error}; `drpo {name} --help` explains the options")
    return _load(command.run)(config) or 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items())
    return (
        "usage: drpo COMMAND [OPTIONS]\n\nLearn a recommender from logs.\n\n"
        f"commands:\n{listed}\n\n"
        "`drpo COMMAND --help` explains a command's options. Bad input ends with exit code 2 and "
        "one line;\nDRPO_TRACEBACK=1 shows where it came from."
    )


def _load(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _one_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if isinstance(error, MemoryError):
        return f"out of memory ({text or 'no more is known'}); ask for less at a time"
    place = place_in_own_code(error)
    if place:
        return f"{place}: {type(error).__name__}: {text} (DRPO_TRACEBACK=1 shows all of it)"
    if isinstance(error, _REFUSALS):
        return text or type(error).__name__
    return (
        f"a fault of drpo, not of your input ({type(error).__name__}: {text}); please report it "
        "with the command and the traceback that DRPO_TRACEBACK=1 shows"
    )


def _refuse(message: str) -> int:
    print(f"drpo: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
