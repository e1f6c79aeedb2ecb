"""`Catalogue`: raw ids (integers or strings) to row numbers 0..n-1 and back, saved and stable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from torchrl_drpo.files import read_json, write_bytes

from .ids import Ids, as_ids, distinct, index_of, joined, plain
from .words import Words

#: How an integer is written, and no other spelling of it; int64 has 19 digits.
_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = np.iinfo(np.int64)


class Catalogue:
    """A fixed numbering of ids.

    Numbers never change once given: :meth:`extended` puts new ids behind the known ones. Integer
    ids are kept as int64, strings as UTF-8 of any length; the two never mix.

    Args:
        ids: distinct ids in the order of their numbers.

    Raises:
        ValueError: on duplicates, or where integers and strings mix.

    Examples:
        >>> items = Catalogue.from_ids([30, 10, 20, 10])
        >>> items.encode([20, 30]), items.decode([0, 2])
        (tensor([1, 2]), [10, 30])
        >>> items.encode([20, 99], unknown="missing")
        tensor([ 1, -1])
        >>> items.extended([5]).decode([3])
        [5]
    """

    def __init__(self, ids: Sequence[int] | Sequence[str] | Ids) -> None:
        self._ids = as_ids(ids)
        try:
            self._index = index_of(self._ids)
        except ValueError as error:
            raise ValueError(f"a catalogue's ids must be distinct; {error}") from None

    @classmethod
    def from_ids(cls, ids: Iterable[int] | Iterable[str] | Ids) -> Catalogue:
        """Numbers the distinct ids in ascending order, whatever order they come in."""
        return cls(distinct(_flat(ids))[0])

    def extended(self, ids: Iterable[int] | Iterable[str] | Ids) -> Catalogue:
        """A catalogue in which new ids come behind the known ones, in ascending order."""
        new = distinct(_flat(ids))[0]
        if not len(new):
            return self
        if not len(self):
            return Catalogue(new)
        if type(new) is not type(self._ids):
            raise ValueError(
                f"a catalogue of {'integers' if self.is_integer else 'strings'} cannot take "
                f"{'strings' if self.is_integer else 'integers'}; ids changed their type"
            )
        fresh = np.flatnonzero(self._index.find(new) < 0)
        return Catalogue(joined([self._ids, new.take(fresh)])) if len(fresh) else self

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Catalogue) or self.is_integer != other.is_integer:
            return False
        return len(self) == len(other) and bool(
            (other._index.find(self._ids) == np.arange(len(self))).all()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Catalogue({len(self)} {self._kind} ids)"

    @property
    def is_integer(self) -> bool:
        """Whether ids are integers; else they are strings."""
        return not isinstance(self._ids, Words)

    @property
    def _kind(self) -> str:
        return "integer" if self.is_integer else "string"

    def encode(self, ids: Any, unknown: Literal["error", "missing"] = "error") -> Tensor:
        """Numbers of raw ids.

        Args:
            ids: integers or strings, of any shape that numpy or torch understands.
            unknown: ``"error"``, or ``"missing"`` for -1.

        Returns:
            int64 tensor of the ids' shape.

        Raises:
            KeyError: names the first unknown id.
        """
        return torch.from_numpy(self.encode_flat(ids, unknown).reshape(np.shape(ids)))

    def encode_flat(self, ids: Any, unknown: Literal["error", "missing"] = "error") -> np.ndarray:
        """As :meth:`encode`, as a flat numpy array."""
        wanted = as_ids(ids)
        if len(self) and type(wanted) is type(self._ids):
            number = self._index.find(wanted)
        else:
            number = np.full(len(wanted), -1, dtype=np.int64)
        if unknown == "error" and np.any(number < 0):
            raise KeyError(
                f"id {plain(wanted, int(np.argmax(number < 0)))!r} is not in the catalogue of "
                f"{len(self)} {self._kind} ids; pass unknown='missing' for -1"
            )
        return number

    def find(self, raw: int | str) -> int:
        """Number of one raw id, -1 where it is unknown: a text finds the integer that it spells.

        For command lines and requests, where every id is a text. One spelling is one id: ``"7"``
        finds 7, but ``"07"``, ``"+7"``, ``" 7"`` and ``"7_0"`` find nothing.

        >>> users = Catalogue([7, 10])
        >>> users.find("10"), users.find(7), users.find("1_0"), users.find(10**20)
        (1, 0, -1, -1)
        """
        if self.is_integer and isinstance(raw, str):
            if not _CANONICAL.fullmatch(raw):
                return -1
            raw = int(raw)
        if isinstance(raw, int | np.integer) and not _INT64.min <= raw <= _INT64.max:
            return -1
        if isinstance(raw, str) and not _is_unicode(raw):
            return -1
        return int(self.encode([raw], unknown="missing")[0])

    def find_all(self, raws: Sequence[int | str]) -> Tensor:
        """Numbers of raw ids, int64 ``[n]``, each as :meth:`find` says.

        >>> Catalogue([7, 10]).find_all(["10", 7, "07"])
        tensor([ 1,  0, -1])
        """
        out = np.full(len(raws), -1, dtype=np.int64)
        places, wanted = [], []
        for place, raw in enumerate(raws):
            if self.is_integer and isinstance(raw, str):
                if not _CANONICAL.fullmatch(raw):
                    continue
                raw = int(raw)
            if isinstance(raw, int | np.integer) != self.is_integer:
                continue
            fits = _is_unicode(raw) if isinstance(raw, str) else _INT64.min <= raw <= _INT64.max
            if fits:
                places.append(place)
                wanted.append(raw)
        out[places] = self.encode_flat(wanted, unknown="missing")
        return torch.from_numpy(out)

    def decode(self, numbers: Any) -> list[Any]:
        """Raw ids of a flat sequence of numbers; raises ``IndexError`` outside [0, n)."""
        if isinstance(numbers, Tensor):
            numbers = numbers.cpu().numpy()
        index = np.asarray(numbers).ravel()
        if index.size and index.dtype.kind not in "iu":
            raise IndexError(f"catalogue numbers are integers, got {index.dtype}: {index[0]}")
        index = index.astype(np.int64)
        bad = (index < 0) | (index >= len(self))
        if bad.any():
            value = index[np.flatnonzero(bad)[0]]
            raise IndexError(f"catalogue numbers lie in [0, {len(self)}), got {value}")
        found = self._ids.take(index)
        return [word.decode("utf-8") for word in found] if isinstance(found, Words) else (
            found.tolist()
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Writes ``<path>.json`` and ``<path>.bin``, each in one step."""
        if isinstance(self._ids, Words):
            write_bytes(f"{path}.bin", self._ids.letters.tobytes())
            write_bytes(f"{path}.lengths.bin", self._ids.lengths().astype(np.int32).tobytes())
        else:
            write_bytes(f"{path}.bin", self._ids.tobytes())
        meta = json.dumps({"kind": self._kind, "count": len(self)})
        write_bytes(f"{path}.json", meta.encode())

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Reads what :meth:`save` wrote; raises ``ValueError`` where the files do not fit."""
        meta = read_json(f"{path}.json")
        if not isinstance(meta, dict) or meta.get("kind") not in ("integer", "string"):
            raise ValueError(f"{path}.json does not describe a catalogue of ids")
        blob = Path(f"{path}.bin").read_bytes()
        if meta["kind"] == "integer":
            if len(blob) % 8:
                raise ValueError(f"{path}.bin: {len(blob)} bytes are no whole number of int64 ids")
            ids: Ids = np.frombuffer(blob, dtype=np.int64)
        else:
            ids = _read_words(path, blob)
        if len(ids) != meta.get("count"):
            raise ValueError(f"{path}: expected {meta.get('count')} ids, found {len(ids)}")
        return cls(ids)


def _read_words(path: Path, blob: bytes) -> Words:
    file = Path(f"{path}.lengths.bin")
    raw = file.read_bytes() if file.is_file() else b""  # none where no id was ever saved
    lengths = np.frombuffer(raw, dtype=np.int32) if len(raw) % 4 == 0 else np.array([-1])
    if (lengths < 0).any() or int(lengths.sum(dtype=np.int64)) != len(blob):
        raise ValueError(f"{file} does not fit {path}.bin of {len(blob)} bytes")
    ends = np.cumsum(lengths, dtype=np.int64)
    letters = np.frombuffer(blob, dtype=np.uint8)
    return Words(letters, np.concatenate([np.zeros(1, np.int64), ends]))


def _flat(ids: Any) -> Ids:
    return as_ids(ids if isinstance(ids, np.ndarray | Words | Tensor) else list(ids))


def _is_unicode(text: str) -> bool:
    """Whether a text has UTF-8: bytes of a command line that are none come as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
