"""The page of the command line, from the options that the commands themselves read.

A page asks for it with comments of their own lines: ``<!-- commands -->`` for every command with
its options, ``<!-- objectives -->`` for the objectives that have a name and what ``--set`` can say
of each.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import griffe

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]  # the checkout's own, installed or not

from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.config_file import FLAG
from torchrl_drpo.cli.config_file import HELP as FILE_HELP
from torchrl_drpo.pipeline.objectives.named import OBJECTIVES, Objective

_WORDS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
#: What the objectives of ``drpo train`` are losses of, in the reference.
_LOSSES = {
    "bc": "BehaviorCloningLoss",
    "drpo": "DRPOLoss",
    "repulsive": "RepulsiveLoss",
    "awr": "AWRLoss",
    "crr": "CRRLoss",
    "asymre": "AsymRELoss",
    "gbpo": "GBPOLoss",
    "guided": "GuidedLoss",
}


class Option(NamedTuple):
    """One option of a command.

    Attributes:
        flag: as it is given, such as ``--test-days``; without dashes where it has no name.
        takes: what follows it; nothing of a switch.
        default: as text; empty where there is none.
        text: what it does.
        part: which part of the options it belongs to; empty for those of the command itself.
    """

    flag: str
    takes: str
    default: str
    text: str
    part: str


def options_of(config: type, part: str = "") -> Iterator[Option]:
    """All options of a command's dataclass, those of its parts after its own."""
    hints = get_type_hints(config, include_extras=True)
    texts = _texts(config)
    inner = []
    if not part:  # which all commands have, and no settings
        yield Option(FLAG, "PATH", "", FILE_HELP, "")
    for field in fields(config):
        hint, notes = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
        if any("Suppress" in str(note) for note in notes):
            continue
        if is_dataclass(hint):
            inner.append((field.name, hint))
            continue
        flag = field.name.replace("_", "-")
        switch = hint is bool
        no = "no-" if switch and field.default is True else ""
        flag = flag if any("Positional" in str(note) for note in notes) else f"--{no}{flag}"
        yield Option(
            flag,
            "" if switch else _takes(hint, notes),
            "" if switch else _default(field),
            ("turns it off: " if no else "") + texts.get(field.name, ""),
            part,
        )
    for name, hint in inner:
        title = name if name != "kinds" else ""
        yield from options_of(hint, title or part)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the commands and the objectives in place of the comments."""
    for comment, made in (("commands", _commands), ("objectives", _objectives)):
        markdown = re.sub(
            rf"^<!-- {comment} -->$", lambda _, made=made: made(), markdown, flags=re.M
        )
    return markdown


def load(place: str) -> Any:
    """What ``module:name`` stands for."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _commands() -> str:
    return "\n\n".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    config = load(COMMANDS[name].config)
    listed = list(options_of(config))
    parts = []
    for part in dict.fromkeys(option.part for option in listed):
        rows = [option for option in listed if option.part == part]
        parts.append((f"Options of `{part}`:\n\n" if part else "") + _table(rows))
    about = (config.__doc__ or "").partition("\n    Attributes:")[0]
    return f"## drpo {name}\n\n{_paragraphs(about)}\n\n" + "\n\n".join(parts)


def _table(options: list[Option]) -> str:
    rows = ["| option | default | what it is |", "|:--|:--|:--|"]
    for option in options:
        takes = f"*{option.takes}*: " if option.takes else ""
        cells = (_code(option.flag), _code(option.default), takes + option.text)
        rows.append("| " + " | ".join(cells) + " |")
    return '<div class="options" markdown>\n\n' + "\n".join(rows) + "\n\n</div>"


def _objectives() -> str:
    rows = [
        "| name | loss | reads | options of `--set`, with their defaults |",
        "|:--|:--|:--|:--|",
    ]
    for name, objective in OBJECTIVES.items():
        parts = (objective.options, objective.condition, objective.tilt)
        options = [
            f"`{option}={_shown(value)}`"
            for part in parts
            if part is not None
            for option, value in vars(part).items()
        ]
        loss = _LOSSES[objective.loss]
        link = f"[`{loss}`][torchrl_drpo.objectives.{loss}]"
        rows.append(f"| `{name}` | {link} | {_reads(objective)} | {', '.join(options)} |")
    return "\n".join(rows)


def _reads(objective: Objective) -> str:
    signal = {
        "logged": "the logged quality",
        "predicted_reward": "predictions Q",
        "predicted_advantage": "advantages Q - V",
    }[objective.signal]
    more = {
        "moved uphill": objective.moves,
        "climbs Q": objective.climbs,
        "conditioned on quality": objective.condition is not None,
        "served times exp(Q / tau)": objective.tilt is not None,
    }
    return ", ".join([signal, *(text for text, there in more.items() if there)])


def _texts(config: type) -> dict[str, str]:
    """What the docstrings of a dataclass and those that it builds on say of its fields."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__):
        if is_dataclass(each) and each.__doc__:
            for section in griffe.Docstring(each.__doc__).parse("google", warnings=False):
                if section.kind is griffe.DocstringSectionKind.attributes:
                    found |= {one.name: " ".join(one.description.split()) for one in section.value}
    return {name: text.replace("|", r"\|") for name, text in found.items()}


def _takes(hint: Any, notes: Any = ()) -> str:
    """What an option takes, as one word or several."""
    metavar = next((note.metavar for note in notes if hasattr(note, "metavar")), None)
    if metavar:
        return str(metavar)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _takes(inner[0], inner[1:])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(_takes(each) for each in inner if each is not NoneType)
    if origin is tuple:
        word = _takes(inner[0])
        return f"{word} ..."
    return _WORDS[hint]


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _shown(field.default)
    return "" if field.default_factory is MISSING else _shown(field.default_factory())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _code(text: str) -> str:
    return f"`{text}`" if text and text != "none" else ""


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in text.strip().split("\n\n"))
