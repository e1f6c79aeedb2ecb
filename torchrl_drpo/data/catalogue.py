"""`Catalogue`: raw ids (integers or strings) to row numbers 0..n-1 and back, saved and stable."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


class Catalogue:
    """A fixed numbering of ids.

    Numbers never change once given: :meth:`extended` puts new ids behind the known ones. Integer
    ids are kept as int64, strings as UTF-8; the two never mix.

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

    def __init__(self, ids: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        self._ids = as_id_array(ids)
        self._order = np.argsort(self._ids, kind="stable")
        self._sorted = self._ids[self._order]
        if len(self._sorted) and np.any(self._sorted[1:] == self._sorted[:-1]):
            first = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])[0]
            repeated = _plain(self._sorted[first])
            raise ValueError(f"a catalogue's ids must be distinct; {repeated!r} repeats")
        self._direct = self._direct_table()

    def _direct_table(self) -> np.ndarray | None:
        """Id -> number by one lookup, where the integer ids are dense enough to afford it."""
        if self._ids.dtype != np.int64 or not len(self._ids) or self._sorted[0] < 0:
            return None
        if self._sorted[-1] >= 4 * len(self._ids) + 1_000:
            return None
        table = np.full(int(self._sorted[-1]) + 1, -1, dtype=np.int64)
        table[self._ids] = np.arange(len(self._ids))
        return table

    @classmethod
    def from_ids(cls, ids: Iterable[int] | Iterable[str] | np.ndarray) -> Catalogue:
        """Numbers the distinct ids in ascending order, whatever order they come in."""
        array = ids if isinstance(ids, np.ndarray) else list(ids)
        return cls(np.unique(as_id_array(array)))

    def extended(self, ids: Iterable[int] | Iterable[str] | np.ndarray) -> Catalogue:
        """A catalogue in which new ids come behind the known ones, in ascending order."""
        array = np.unique(as_id_array(ids if isinstance(ids, np.ndarray) else list(ids)))
        if not len(array):
            return self
        if not len(self):
            return Catalogue(array)
        if array.dtype.kind != self._ids.dtype.kind:
            raise ValueError(
                f"a catalogue of {'integers' if self.is_integer else 'strings'} cannot take "
                f"{'integers' if array.dtype == np.int64 else 'strings'}; ids changed their type"
            )
        fresh = array[self.encode_array(array, "missing") < 0]
        if not len(fresh):
            return self
        return Catalogue(np.concatenate([self._ids, fresh]))

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and np.array_equal(self._ids, other._ids)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Catalogue({len(self)} {'integer' if self.is_integer else 'string'} ids)"

    @property
    def is_integer(self) -> bool:
        """Whether ids are integers; else they are strings."""
        return self._ids.dtype == np.int64

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
        if isinstance(ids, Tensor):
            ids = ids.cpu().numpy()
        array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, dtype=object)
        return torch.from_numpy(self.encode_array(array, unknown))

    def encode_array(
        self, ids: np.ndarray, unknown: Literal["error", "missing"] = "error"
    ) -> np.ndarray:
        """As :meth:`encode`, from numpy to numpy."""
        shape = np.shape(ids)
        wanted = as_id_array(np.ravel(ids))
        if len(self) == 0 or (len(wanted) and (wanted.dtype.kind != self._ids.dtype.kind)):
            number = np.full(len(wanted), -1, dtype=np.int64)
        elif self._direct is not None:
            inside = (wanted >= 0) & (wanted < len(self._direct))
            number = np.where(inside, self._direct[np.where(inside, wanted, 0)], -1)
        else:
            place = np.minimum(np.searchsorted(self._sorted, wanted), len(self) - 1)
            number = np.where(self._sorted[place] == wanted, self._order[place], -1)
        if unknown == "error" and np.any(number < 0):
            raw = _plain(wanted[np.flatnonzero(number < 0)[0]])
            raise KeyError(
                f"id {raw!r} is not in the catalogue of {len(self)} "
                f"{'integer' if self.is_integer else 'string'} ids; pass unknown='missing' for -1"
            )
        return number.reshape(shape)

    def decode(self, numbers: Any) -> list[Any]:
        """Raw ids of a flat sequence of numbers; raises ``IndexError`` outside [0, n)."""
        if isinstance(numbers, Tensor):
            numbers = numbers.cpu().numpy()
        index = np.asarray(numbers, dtype=np.int64).ravel()
        bad = (index < 0) | (index >= len(self))
        if bad.any():
            value = index[np.flatnonzero(bad)[0]]
            raise IndexError(f"catalogue numbers lie in [0, {len(self)}), got {value}")
        return [_plain(raw) for raw in self._ids[index]]

    def save(self, path: Path) -> None:
        """Writes ``<path>.json`` and ``<path>.bin``, each atomically."""
        if self.is_integer:
            blob, lengths = self._ids.tobytes(), None
        else:
            blob = b"".join(self._ids.tolist())
            lengths = np.char.str_len(self._ids).astype(np.int32) if len(self) else None
        _write(Path(f"{path}.bin"), blob)
        meta = {"kind": "integer" if self.is_integer else "string", "count": len(self)}
        if lengths is not None:
            _write(Path(f"{path}.lengths.bin"), lengths.tobytes())
        _write(Path(f"{path}.json"), json.dumps(meta).encode())

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Reads what :meth:`save` wrote; raises ``ValueError`` where the files do not fit."""
        meta = json.loads(Path(f"{path}.json").read_text())
        blob = Path(f"{path}.bin").read_bytes()
        count = meta["count"]
        if meta["kind"] == "integer":
            ids = np.frombuffer(blob, dtype=np.int64)
        elif count == 0:
            ids = np.empty(0, dtype="S1")
        else:
            lengths = np.fromfile(f"{path}.lengths.bin", dtype=np.int32)
            ends = np.cumsum(lengths)
            ids = np.array([blob[e - n : e] for e, n in zip(ends, lengths, strict=True)])
        if len(ids) != count:
            raise ValueError(f"{path}: expected {count} ids, the file holds {len(ids)}")
        return cls(ids)


def as_id_array(ids: Any) -> np.ndarray:
    """Ids as int64 or as UTF-8 bytes; raises ``ValueError`` on anything else."""
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, dtype=object)
    if array.size == 0:
        return array.astype("S1" if array.dtype.kind in "SU" else np.int64)
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.ravel().tolist()}
        if all(issubclass(kind, str) for kind in kinds):
            array = array.astype(np.str_)
        elif bool not in kinds and all(issubclass(kind, int | np.integer) for kind in kinds):
            array = array.astype(np.int64)
        else:
            names = sorted(kind.__name__ for kind in kinds)
            raise ValueError(f"ids must be all integers or all strings, got {', '.join(names)}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"integer ids must fit int64, got {array.max()}")
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array, dtype=np.int64)
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    if array.dtype.kind == "S":
        return array
    raise ValueError(f"ids must be integers or strings, got {array.dtype}")


def _plain(raw: Any) -> int | str:
    return raw.decode("utf-8") if isinstance(raw, bytes) else int(raw)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
