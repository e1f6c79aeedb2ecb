"""``--config FILE``: a command's options from a YAML or JSON file, below those that are given.

A file's entries bear the options' names, nested as the settings are or flat as the help lists them.
They are checked against the settings' types, and then given to the command as options would be, so
that a file can say nothing that a command line could not. ``results.json`` of a run is such a file.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from torchrl_drpo.spelling import did_you_mean

FLAG = "--config"
#: Numbers that are the same in YAML 1.1, in YAML 1.2 and to everybody.
_PLAIN_NUMBER = re.compile(
    r"[-+]?((0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.(inf|nan))", re.I
)
#: What its help says.
HELP = (
    "YAML or JSON file with options by their names, or the results.json of a run; options that are "
    "given beside it win."
)


class ConfigFileError(ValueError):
    """A file of options that cannot be used: which, where, what was expected."""


class Option(NamedTuple):
    """An option that a file may set.

    Attributes:
        flag: its name on the command line, without dashes.
        hint: its type.
        default: its value where nobody says.
        positional: whether it has no name on the command line.
    """

    flag: str
    hint: Any
    default: Any
    positional: bool


def with_file(config: type, options: Sequence[str]) -> list[str]:
    """The options of a command, and behind them those of the file that they name.

    Args:
        config: dataclass of the command.
        options: as they were given.

    Raises:
        ConfigFileError: for a file that cannot be read, a name that is no option, or a value of
            another type.
    """
    path, given = _taken_out(options)
    if path is None:
        return given
    known = dict(_options(config, ()))
    said = {_flag(word): word for word in given if word.startswith("--")}
    found: list[str] = []
    for place, value in _entries(path, known):
        option = known[place]
        if option.flag not in said:
            found += _words(option, value, f"{path}: {'.'.join(place)}")
    # What merely undoes a switch of the file is a default otherwise, which has no option.
    undone = {
        f"--{'no-' if option.default is False else ''}{option.flag}"
        for option in known.values()
        if option.hint is bool
    }
    return [word for word in given if word.replace("_", "-") not in undone] + found


def _taken_out(options: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that options name, and the others."""
    given, named = list(options), []
    while places := [n for n, word in enumerate(given) if word.partition("=")[0] == FLAG]:
        word = given.pop(places[0])
        if "=" in word:
            named.append(word.partition("=")[2])
        elif places[0] < len(given):
            named.append(given.pop(places[0]))
        else:
            raise ConfigFileError(f"{FLAG} takes a file: {FLAG} run.yaml")
    if len(named) > 1:
        raise ConfigFileError(f"{FLAG} is given {len(named)} times; put all into one file")
    return (Path(named[0]) if named else None), given


def _flag(word: str) -> str:
    """The name of the option that a word sets: of ``--no-bias`` and ``--bias`` the same one."""
    return word[2:].partition("=")[0].replace("_", "-").removeprefix("no-")


def _options(config: type, within: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Option]]:
    """All options of a dataclass by their places, those of its parts included."""
    hints = get_type_hints(config, include_extras=True)
    for field in fields(config):
        hint, notes = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
        place = (*within, field.name)
        if is_dataclass(hint):
            yield from _options(hint, place)  # type: ignore[arg-type]
        elif not any("Suppress" in str(note) for note in notes):
            positional = any("Positional" in str(note) for note in notes)
            flag = field.name.replace("_", "-")
            yield place, Option(flag, hint, _default(field), positional)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return None if field.default_factory is MISSING else field.default_factory()


def _entries(
    path: Path, known: Mapping[tuple[str, ...], Option]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Places and values of a file; a flat name stands for the place that bears it."""
    flat = {place[-1]: place for place in known}
    parts = {place[:depth] for place in known for depth in range(1, len(place))}

    def walk(data: Mapping[Any, Any], within: tuple[str, ...]) -> Iterator[Any]:
        for key, value in data.items():
            name = str(key).replace("-", "_")
            place = (*within, name)
            if place in parts:
                if not isinstance(value, Mapping):
                    raise ConfigFileError(
                        f"{path}: {'.'.join(place)}: expected options by their names, got "
                        f"{_shown(value)}"
                    )
                yield from walk(value, place)
                continue
            place = place if place in known or within else flat.get(name, place)
            if place not in known:
                here = {one[len(within)] for one in known if one[: len(within)] == within}
                hint = did_you_mean(name, [*here, *(() if within else flat)])
                where = f" of {'.'.join(within)}" if within else ""
                raise ConfigFileError(
                    f"{path}: no option {str(key)!r}{where}{hint}; there are "
                    f"{', '.join(sorted(here))}"
                )
            yield place, value

    seen: set[tuple[str, ...]] = set()
    for place, value in walk(_read(path), ()):
        if place in seen:
            raise ConfigFileError(f"{path}: {'.'.join(place)} is set twice")
        seen.add(place)
        yield place, value


def _read(path: Path) -> Mapping[Any, Any]:
    """What a file holds; of a run's results, the settings."""
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ConfigFileError(f"{path}: expected a file named .yaml, .yml or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = (_of_json if path.suffix == ".json" else _of_yaml)(path, text)
    except OSError as error:
        raise ConfigFileError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise ConfigFileError(f"{path} is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{path} is not text in UTF-8: {error}") from None
    except ConfigFileError:
        raise
    except ValueError as error:  # a number of thousands of digits, a day that no calendar has
        raise ConfigFileError(f"{path}: {error}") from None
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        raise ConfigFileError(
            f"{path}: expected options by their names, found {type(data).__name__}"
        )
    if {"version", "config", "summary"} <= data.keys() and isinstance(data["config"], Mapping):
        return _of_results(path, data["config"])
    return data


def _of_results(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of a run, which name no folders: of its schema there is a copy beside them."""
    from torchrl_drpo.pipeline.config.train import SCHEMA_COPY

    copy = path.parent / SCHEMA_COPY / str(config.get("schema"))
    return {**config, "schema": str(copy)} if copy.is_file() else config


def _of_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _named_once(path, pairs))
    except json.JSONDecodeError as error:
        raise ConfigFileError(f"{path} is not JSON: {error}") from None


def _of_yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigFileError(
            f"{path}: YAML files need the command line's extra: pip install 'torchrl-drpo[cli]'; "
            "JSON files do not"
        ) from None

    class Loader(yaml.SafeLoader):
        """Plain data alone: numbers, texts, dates, lists and mappings."""

    def number(loader: Any, node: Any) -> Any:
        # YAML 1.1 has 010 for eight and 1:30 for ninety; of such a number, nobody knows.
        plain = _PLAIN_NUMBER.fullmatch(node.value)
        kind = node.tag.rpartition(":")[2]
        return getattr(loader, f"construct_yaml_{kind}")(node) if plain else node.value

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        pairs = [(loader.construct_object(k, True), v) for k, v in node.value]
        found = _named_once(path, pairs)
        return {key: loader.construct_object(value, True) for key, value in found.items()}

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", number)
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigFileError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _named_once(path: Path, pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of pairs; of a name that stands there twice, JSON and YAML would take the last."""
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if str(name) in found:
            raise ConfigFileError(f"{path}: {name} is set twice")
        found[str(name)] = value
    return found


def _words(option: Option, value: Any, where: str) -> list[str]:
    """A file's value as words of a command line."""
    if option.positional:
        raise ConfigFileError(f"{where}: is given on the command line, behind the command's name")
    if option.hint is bool:
        if not isinstance(value, bool):
            raise ConfigFileError(f"{where}: expected true or false, got {value!r}")
        if value == option.default:
            return []
        return [f"--{option.flag}" if value else f"--no-{option.flag}"]
    kinds = get_args(option.hint) if _is_union(option.hint) else (option.hint,)
    if value is None and NoneType in kinds:
        return [] if option.default is None else [f"--{option.flag}=None"]
    for kind in kinds:
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            inner = get_args(kind)[0]
            words = [_word(each, inner) for each in value]
            dashed = next((word for word in words if str(word).startswith("--")), None)
            if dashed is not None:
                raise ConfigFileError(f"{where}: {dashed!r} would be read as an option of its own")
            if None not in words:
                return [f"--{option.flag}", *map(str, words)]
        word = _word(value, kind)
        if word is not None:
            return [f"--{option.flag}={word}"]
    wanted = " or ".join(_describe(kind) for kind in kinds)
    quote = "; write it in quotes" if str in kinds and not isinstance(value, list | dict) else ""
    raise ConfigFileError(f"{where}: expected {wanted}, got {_shown(value)}{quote}")


def _shown(value: Any) -> str:
    """A value for messages; of lists and mappings the beginning, since YAML's can be endless."""
    if isinstance(value, list | tuple | dict):
        return reprlib.repr(value)
    return json.dumps(value, default=str)


def _word(value: Any, kind: Any) -> str | None:
    """A value of a type as one word; ``None`` for one of another type."""
    if get_origin(kind) is Literal:
        return str(value) if value in get_args(kind) else None
    if kind is int:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is float:
        return _number(value)
    if kind is str and type(value) is date:  # YAML reads 2022-05-06 as one
        return value.isoformat()
    return value if kind in (str, Path) and isinstance(value, str) else None


def _number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return repr(float(value))  # of texts too: YAML reads 1e-3, without a point, as one
    except ValueError:
        return None


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list, each entry {_describe(get_args(kind)[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    return words.get(kind, "null")
