"""Options of a command, read by tyro; its errors become one line.

tyro draws its errors as boxes for people at a terminal. Scripts and logs want one line, as from
every other error of a command.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints

from torchrl_drpo.cli.config_file import FLAG, HELP, ConfigFileError, with_file
from torchrl_drpo.spelling import did_you_mean

Config = TypeVar("Config")

# tyro draws in ASCII where the stream that it writes to has no encoding.
_BORDER = re.compile(r"^[│|]\s?|\s?[│|]$")
_RULE = re.compile(r"^[─\-\s]*$")
#: Of boxes that are drawn in ASCII, where the title is a part of its own.
_TITLES = {
    "Value error",
    "Required options",
    "Invalid choice",
    "Missing argument",
    "Unrecognized options",
}
#: Wide enough that no message is broken in two.
_COLUMNS = 10_000


class OptionError(ValueError):
    """Options that are not those of the command; one line says why."""


def parse(config: type[Config], options: Sequence[str], *, prog: str) -> Config:
    """Reads a command's options, those of a file (``--config FILE``) included.

    Args:
        config: dataclass of the command.
        options: what follows its name.
        prog: the command, for its help.

    Raises:
        OptionError: for options that cannot be read, or that the dataclass refuses.
        SystemExit: with code 0, after ``--help``.
    """
    import tyro

    said = io.StringIO()
    helps = any(option in ("-h", "--help") for option in options)
    try:
        options = options if helps else with_file(config, options)
    except ConfigFileError as error:
        raise OptionError(str(error)) from None
    try:
        with contextlib.nullcontext() if helps else _quietly(said):
            return tyro.cli(
                _helped(config) if helps else config,
                args=list(options),
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise OptionError(_one_line(said.getvalue(), config, options)) from None


def _helped(config: type[Config]) -> type[Config]:
    """The command's dataclass with the option of a file, which is read before all others."""
    import tyro

    hint = Annotated[Path | None, tyro.conf.arg(help=HELP)]
    shown = make_dataclass(
        config.__name__, [("config", hint, field(default=None))], bases=(config,), frozen=True
    )
    shown.__doc__ = config.__doc__
    return shown


@contextlib.contextmanager
def _quietly(into: io.StringIO) -> Iterator[None]:
    """Catches what tyro draws, on one line however wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(_COLUMNS)
    try:
        with contextlib.redirect_stderr(into), contextlib.redirect_stdout(into):
            yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(drawn: str, config: type, options: Sequence[str]) -> str:
    """The message of a drawn error, without its frame and its advice."""
    parts = _sections(drawn)
    out = []
    for lines in parts:
        first, *rest = lines
        if first.startswith(("For full helptext", "Perhaps you meant")):  # which has all of --help
            continue
        if first.startswith("Missing from"):
            out.append("missing " + "; ".join(_flags(rest)))
        elif first.startswith("Unrecognized options"):
            unknown = [*first.partition(":")[2].replace(",", " ").split(), *rest]
            out.append("unknown " + " ".join(_unknown(unknown, config)))
        elif first.startswith("Argument helptext"):
            out.append(f"expected {rest[0]}" if rest else "")
        else:
            text = re.sub(rf"^Error parsing {config.__name__}: ", "", " ".join(lines))
            out.append(text.removesuffix("."))
    message = "; ".join(part for part in out if part)
    dashed = re.search(r"Missing value for argument '?(--[\w-]+)", message)
    if dashed:  # what begins with a dash reads as an option
        message += f"; a value that begins with a dash is given as {dashed[1]}=VALUE"
    return message or f"these options cannot be read: {' '.join(options)}"


def _sections(drawn: str) -> list[list[str]]:
    """The box's text below its title, a list of lines for each part between two rules."""
    sections: list[list[str]] = [[]]
    for line in drawn.splitlines():
        if line.startswith(("╭", "╰", "+-")):  # the title, and the lower edge
            continue
        text = _BORDER.sub("", _BORDER.sub("", line.strip())).strip()
        if _RULE.match(text):
            sections.append([])
        elif text:
            sections[-1].append(text)
    found = [lines for lines in sections if lines]
    return found[1:] if found and found[0][0] in _TITLES else found


def _flags(lines: list[str]) -> list[str]:
    """``--logs STR: what it is`` from the lines about missing options."""
    out: list[str] = []
    for line in lines:
        if line.startswith("--"):
            out.append(line)
        elif out and ":" not in out[-1]:
            out[-1] += f": {line.removesuffix('(required)').strip().removesuffix('.')}"
    return out


def _unknown(given: Sequence[str], config: type) -> list[str]:
    known = [*_names(config), FLAG]
    return [name + (did_you_mean(name, known) if name.startswith("--") else "") for name in given]


def _names(config: type) -> list[str]:
    """All options of a dataclass, those of its parts included."""
    hints = get_type_hints(config)
    out = []
    for each in fields(config):
        if is_dataclass(hints[each.name]):
            out += _names(hints[each.name])
        else:
            out.append("--" + each.name.replace("_", "-"))
    return out
