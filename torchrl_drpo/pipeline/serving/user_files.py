"""``drpo recommend --users FILE --output FILE``: lists for many users, some of them at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchrl_drpo.data import LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.files import replacing, telling_full_disk
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import RawId
from torchrl_drpo.pipeline.serving.lists import FoundLists
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request
from torchrl_drpo.pipeline.serving.situations import log_columns, numbers_of, unknown_user
from torchrl_drpo.pipeline.serving.tables import blocks, id_column, raw_values, rows_of
from torchrl_drpo.pipeline.terminal import note

if TYPE_CHECKING:
    import pyarrow as pa

#: Users whose lists are made together.
USERS_AT_A_TIME = 1024


def write_lists(
    recommender: Recommender,
    request: Request,
    users: Path,
    out: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, int]:
    """Writes a row for each place of each user's list, in the order of the file.

    Columns: ``user`` and ``item`` (raw ids), ``rank`` (from 1), ``score``, and ``propensity``
    where lists are drawn. The file appears when all of it is written.

    Args:
        recommender: the policy.
        request: what is asked for every user; its user, history, context and features are not
            looked at.
        users: the file of users: a column of the name that the schema gives to users, or
            ``user``, or the only one. Columns of the names of the log's context columns and
            features say what is so now; where they hold nothing, what the log knows counts.
        out: Parquet, or CSV by its name.
        progress: called with a name, the rows of ``users`` that are done, and all of them (of CSV
            and text the lines).

    Returns:
        Numbers of users and of places written.

    Raises:
        ValueError: for a file that does not fit, or a user whom the log does not know, unless the
            request asks for ``cold_start``.
    """
    if out.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"--output must end with .parquet or .csv, got {out}")
    reader = _UserRows(recommender.checkpoint, users, request.cold_start)
    everyone = numbers_of(recommender.checkpoint.items, request.exclude)
    counts = {"users": 0, "places": 0}
    with (
        telling_full_disk(f"writing {out}"),
        replacing(out) as file,
        _Writer(file, out.suffix.lower(), recommender.checkpoint, request) as writer,
    ):
        every = 0
        for block in blocks(users, USERS_AT_A_TIME):
            names, rows, context, features = reader.read(block)
            found = _lists_of(recommender, request, rows, context, features, everyone)
            counts["users"] += len(names)
            counts["places"] += writer.write(names, found)
            every = every or rows_of(users)
            progress("users", counts["users"], max(every, counts["users"]))
    return counts


def _lists_of(
    recommender: Recommender,
    request: Request,
    rows: Tensor,
    context: Tensor,
    features: Tensor,
    everyone: Tensor,
) -> FoundLists:
    checkpoint = recommender.checkpoint
    users, window = checkpoint.users, checkpoint.window
    about = users.latest_about(rows, window)
    states = checkpoint.states(users.latest(rows, window), context, features, **about)
    exclude = everyone.expand(len(rows), -1)
    if request.exclude_seen:
        exclude = torch.cat([exclude, users.latest(rows)], 1)
    return recommender.lists(
        states, request.k, exclude if exclude.shape[1] else None, request.sampling
    )


class _UserRows:
    """Reads blocks of a file of users."""

    def __init__(self, checkpoint: PolicyCheckpoint, path: Path, cold_start: bool) -> None:
        self._checkpoint, self._path, self._cold_start = checkpoint, path, cold_start
        schema = checkpoint.facts.get("schema")
        user = None if schema is None else LogSchema.from_json(schema).user
        self._user = [name for name in (user, "user") if name]
        self._context = log_columns(checkpoint, "context")
        self._features = log_columns(checkpoint, "features")
        self._read = 0

    def read(self, block: pa.RecordBatch) -> tuple[list[RawId], Tensor, Tensor, Tensor]:
        """Raw ids, numbers ``[B]`` (-1 where unknown), context and features of a block."""
        columns = block.schema.names
        column = id_column(self._path, columns, self._user)
        if not self._read:
            used = {column, *self._context, *self._features}
            if ignored := [name for name in columns if name not in used]:
                note(f"{self._path}: nothing is made of the columns {', '.join(ignored)}")
        names = raw_values(self._path, block.column(column))
        rows = self._numbers(names)
        users = self._checkpoint.users
        known = (rows >= 0).unsqueeze(1)
        usual = rows.clamp(min=0) if len(users.ids) else rows[:0]
        context = torch.full((len(rows), users.context.shape[1]), -1)
        features = torch.zeros(len(rows), users.features.shape[1])
        if features.shape[1]:
            features = self._checkpoint.usual_features().float().expand(len(rows), -1).clone()
        if len(usual):
            context = torch.where(known, users.context[usual].long(), context)
            features = torch.where(known, users.features[usual], features)
        for place, name in enumerate(self._context):
            if name in columns:
                values = self._checkpoint.contexts[place]
                _replace(context[:, place], self._codes(values, block.column(name)))
        for place, name in enumerate(self._features):
            if name in columns:
                _replace(features[:, place], self._numbers_in(block.column(name), name))
        self._read += len(rows)
        return names, rows, context, features

    def _numbers(self, names: Sequence[Any]) -> Tensor:
        if None in names:
            raise ValueError(f"{self._path}: row {self._read + names.index(None)} names no user")
        rows = self._checkpoint.users.ids.find_all(names)
        strangers = (rows < 0).nonzero().flatten().tolist()
        if strangers and not self._cold_start:
            row = strangers[0]
            raise ValueError(
                f"{self._path}, row {self._read + row} (from 0): "
                + unknown_user(self._checkpoint, names[row])
            )
        return rows

    def _codes(self, values: Catalogue, column: pa.Array) -> list[int | None]:
        raws = raw_values(self._path, column)
        codes = values.find_all([-1 if raw is None else raw for raw in raws]).tolist()
        return [None if raw is None else code for raw, code in zip(raws, codes, strict=True)]

    def _numbers_in(self, column: pa.Array, name: str) -> list[float | None]:
        import pyarrow as pa

        try:
            values = column.cast(pa.float32(), safe=False).to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self._path}: feature {name} must be numbers: {error}") from None
        for row, value in enumerate(values):
            if value is not None and not abs(value) < float("inf"):
                raise ValueError(
                    f"{self._path}: feature {name} must be finite float32 numbers but row "
                    f"{self._read + row} (from 0) holds {value}; leave it empty where it is not "
                    "known"
                )
        return values


def _replace(column: Tensor, values: Sequence[float | None]) -> None:
    """Writes the values that are there over a column."""
    there = torch.tensor([value is not None for value in values])
    given = torch.tensor([0 if value is None else value for value in values], dtype=column.dtype)
    column.copy_(torch.where(there, given, column))


class _Writer:
    """Writes lists to a Parquet or CSV file, a block of users at a time."""

    def __init__(
        self, file: Path, suffix: str, checkpoint: PolicyCheckpoint, request: Request
    ) -> None:
        import pyarrow as pa

        self._items = checkpoint.items
        # Whoever is unknown may be spelled in any way; all others are the log's.
        whole = checkpoint.users.ids.is_integer and not request.cold_start
        columns = {
            "user": pa.int64() if whole else pa.string(),
            "rank": pa.int32(),
            "item": pa.int64() if checkpoint.items.is_integer else pa.string(),
            "score": pa.float32(),
        }
        if request.sampling is not None:
            columns["propensity"] = pa.float64()
        self._schema = pa.schema(list(columns.items()))
        self._whole, self._file, self._suffix = whole, file, suffix
        self._opened: Any = None

    def __enter__(self) -> _Writer:
        import pyarrow.csv as arrow_csv
        import pyarrow.parquet as pq

        write = pq.ParquetWriter if self._suffix == ".parquet" else arrow_csv.CSVWriter
        self._opened = write(self._file, self._schema)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(Exception) if error[0] else contextlib.nullcontext():
            self._opened.close()

    def write(self, names: Sequence[RawId], found: FoundLists) -> int:
        """Writes the lists of some users; the number of places."""
        import pyarrow as pa

        left = found.items >= 0
        user, place = left.nonzero(as_tuple=True)
        raw = pa.array([int(n) if self._whole else str(n) for n in names], self._schema.types[0])
        columns = {
            "user": raw.take(pa.array(user.numpy())),
            "rank": pa.array((place + 1).int().numpy()),
            "item": pa.array(self._items.decode(found.items[left]), self._schema.types[2]),
            "score": pa.array(found.scores[left].float().numpy()),
        }
        if found.propensities is not None:
            columns["propensity"] = pa.array(found.propensities[left].numpy())
        self._opened.write_table(pa.table(columns, schema=self._schema))
        return len(user)
