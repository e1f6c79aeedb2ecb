"""``drpo recommend --serve``: a line of JSON in, a line of JSON out.

A request is an object; all of its fields may be left out, and stand for what the command line says:

    {"id": 1, "user": 42, "k": 5, "history": [7, 9], "context": ["home"], "features": [0.5],
     "exclude": [3], "allow": [1, 2, 7], "exclude_seen": true, "cold_start": false,
     "sample": true, "temperature": 0.7, "top_p": 0.9}

An answer repeats ``id`` and ``user`` and holds ``recommendations``, or else ``error`` and the
number of the ``line``. Nothing that a line says ends the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from torchrl_drpo.pipeline.serving.lists import Sampling
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request
from torchrl_drpo.pipeline.terminal import note
from torchrl_drpo.spelling import did_you_mean

#: Bytes of the longest line that is read.
LONGEST = 1 << 24

_ID = (str, int)
_LARGEST = 2**1023
_SAMPLED = ("temperature", "top_p")


def serve_standard_input(recommender: Recommender, usual: Request) -> None:
    """Answers every line of standard input on standard output, until it ends."""
    items, users = len(recommender.checkpoint.items), len(recommender.checkpoint.users.ids)
    note(f"ready: {items:,} items, {users:,} users; a request is a line of JSON")

    def write(answer: str) -> None:
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()

    serve(recommender, sys.stdin.buffer, write, usual)


def serve(
    recommender: Recommender, stream: BinaryIO, write: Callable[[str], None], usual: Request
) -> None:
    """Answers every line of a stream.

    Args:
        recommender: the policy.
        stream: of bytes.
        write: takes an answer, a line of JSON without its end.
        usual: what a request that leaves something out asks for.
    """
    for number, line in enumerate(_lines(stream), start=1):
        if line is None or line.strip():
            write(json.dumps(answer(recommender, line, number, usual), allow_nan=False))


def answer(
    recommender: Recommender, line: bytes | None, number: int, usual: Request
) -> dict[str, Any]:
    """The answer to one line, as JSON data; ``None`` is a line that was too long."""
    asked: dict[str, Any] = {}
    try:
        asked = _parsed(line)
        request = _request(asked, usual)
        found = recommender.recommend(request)
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        return _echo(asked) | {"error": text or type(error).__name__, "line": number}
    except Exception as error:  # a fault of ours is no reason to leave the others unanswered
        text = f"a fault of drpo, not of this request ({type(error).__name__}: {error})"
        return _echo(asked) | {"error": text, "line": number}
    return _echo(asked) | {"recommendations": [place._asdict() for place in found]}


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines; ``None`` for one that is longer than ``LONGEST``, which is not kept."""
    while line := stream.readline(LONGEST + 1):
        if len(line) <= LONGEST or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST)
        yield None


def _parsed(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise ValueError(f"a request must be at most {LONGEST:,} bytes long")
    try:
        asked = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("the request is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("the request is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the request is not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise ValueError(f"a request must be an object, got {_kind(asked)}")
    return asked


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the request is not JSON: {name} is no number of it")


def _request(asked: dict[str, Any], usual: Request) -> Request:
    unknown = sorted(set(asked) - set(_CHECKS) - {"id"})
    if unknown:
        raise ValueError(
            f"a request has no {unknown[0]!r}{did_you_mean(unknown[0], _CHECKS)}; expected some "
            f"of {', '.join(_CHECKS)}"
        )
    for name, value in asked.items():
        if name != "id" and not _CHECKS[name][0](value):
            raise ValueError(f"{name} must be {_CHECKS[name][1]}, got {_shown(value)}")
    plain = {k: v for k, v in asked.items() if k not in ("id", "sample", *_SAMPLED)}
    return replace(usual, **plain, sampling=_sampling(asked, usual.sampling))


def _sampling(asked: dict[str, Any], usual: Sampling | None) -> Sampling | None:
    given = {name: asked[name] for name in _SAMPLED if name in asked}
    if not asked.get("sample", usual is not None):
        if given:
            raise ValueError(f'{next(iter(given))} is of drawn lists: ask for "sample": true')
        return None
    return replace(usual or Sampling(), **given)


def _is_number(value: Any) -> bool:
    """Whether JSON holds a number that a float can: an integer of any length is one of its own."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < _LARGEST


def _is_id(value: Any) -> bool:
    return isinstance(value, _ID) and not isinstance(value, bool)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "user": (lambda value: value is None or _is_id(value), "an id (a text or an integer)"),
    "k": (lambda value: _is_number(value) and isinstance(value, int), "an integer"),
    "history": (_are(_is_id), "a list of item ids"),
    "context": (_are(lambda value: value is None or _is_id(value)), "a list of values"),
    "features": (_are(_is_number), "a list of numbers"),
    "exclude": (_are(_is_id), "a list of item ids"),
    "allow": (_are(_is_id), "a list of item ids"),
    "exclude_seen": (lambda value: isinstance(value, bool), "true or false"),
    "cold_start": (lambda value: isinstance(value, bool), "true or false"),
    "sample": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": (_is_number, "a number"),
    "top_p": (_is_number, "a number"),
}


def _echo(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: asked[name] for name in ("id", "user") if name in asked}


def _kind(value: Any) -> str:
    return "null" if value is None else {list: "a list"}.get(type(value), _shown(value))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
