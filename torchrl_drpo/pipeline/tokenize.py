"""``drpo tokenize``: from a log, or items alone, to semantic IDs and a report on them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchrl_drpo.data import ItemTable, LogSchema, RecReplayBuffer
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.data.sources.paths import folder_of, resolve
from torchrl_drpo.pipeline.code_report import show_codes
from torchrl_drpo.pipeline.config.log import split_of
from torchrl_drpo.pipeline.config.tokenize import ARRAYS, TokenizeConfig
from torchrl_drpo.pipeline.item_tables import ItemRows, table_of_array, write_item_table
from torchrl_drpo.pipeline.kinds.item_vectors import found_vectors
from torchrl_drpo.pipeline.parts import check_parts
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.terminal import print_json, progress_bars
from torchrl_drpo.tokenization import code_quality, residual_kmeans, told_apart

_ROWS = 1 << 16


@dataclass(frozen=True)
class _Items:
    """What is known of the items.

    Attributes:
        catalogue: their numbers.
        rows: the item table, where there is one.
        data: the log, where there is one.
    """

    catalogue: Catalogue
    rows: ItemRows | None
    data: SplitLog | None

    @property
    def id_name(self) -> str:
        """Name of the column of ids."""
        if self.rows is not None:
            return self.rows.table.id
        assert self.data is not None  # items come from somewhere
        return self.data.log.schema.item


def command(config: TokenizeConfig) -> None:
    """Carries out ``drpo tokenize``."""
    with _opened(config) as items:
        if config.report_only:
            codes, vectors, facts = _existing(config, items)
        else:
            codes, vectors, facts = _made(config, items)
        quality = code_quality(codes, vectors=vectors, seed=config.seed, **_seen(items.data))
        if not config.report_only:
            facts |= _write(config, items, codes)
    if config.json:
        print_json(facts | quality.to_json())
        return
    show_codes(quality, facts)


@contextlib.contextmanager
def _opened(config: TokenizeConfig) -> Iterator[_Items]:
    """The log and the item table that were asked for; what is made on the way goes at the end."""
    with tempfile.TemporaryDirectory(prefix="drpo-tokenize-") as folder:
        table = None if config.items is None else _declared(config, Path(folder))
        if config.logs is None:
            assert table is not None  # the settings saw to it
            rows = ItemRows(table)
            yield _Items(rows.items, rows, None)
            return
        schema = config.log_schema()
        if table is not None:
            schema = schema.replace(items=table)
        log = RecReplayBuffer.from_parquet(
            config.logs, schema, root=Path(folder) / "log", history=1, **split_of(config, schema)
        )
        check_parts(log.report.parts, schema.split)
        rows = None
        if schema.items is not None:
            rows = ItemRows(replace(schema.items, path=_beside(config, schema.items)), log.items)
        yield _Items(log.items, rows, SplitLog(log, labels=()))


def _declared(config: TokenizeConfig, folder: Path) -> ItemTable:
    """The item table that the options describe."""
    assert config.items is not None  # only then
    path = config.items.resolve()
    if not path.is_file():
        raise ValueError(f"no item table {config.items}")
    if path.suffix.lower() in ARRAYS:
        return table_of_array(path, config.embedding, config.id, folder / "items.parquet")
    assert config.id is not None  # the settings saw to it
    return ItemTable(
        path=str(path),
        id=config.id,
        embedding=config.embedding,
        codes=config.existing or (),
    )


def _beside(config: TokenizeConfig, table: ItemTable) -> str:
    """Where the schema's item table lies, seen from here."""
    if table.path.startswith("/") or "://" in table.path:
        return table.path
    return f"{folder_of(resolve(config.logs, (table.path,))[0])}/{table.path}"


# -- vectors ------------------------------------------------------------------------------------


def _vectors(config: TokenizeConfig, items: _Items) -> tuple[Tensor, Tensor, str]:
    """The items' vectors (zeros where unknown), which items have one, and where they come from."""
    scale = config.scale
    if config.features is not None:
        if items.rows is None:
            raise ValueError("--features are columns of an item table, and there is none")
        vectors, known = items.rows.features(config.features), items.rows.listed()
        source, natural = f"features of {items.rows.table.path}", "none"  # standard already
    elif items.data is not None:
        found = found_vectors(items.data, config.dim, seed=config.seed)
        vectors, known, source = found.vectors, ~found.unknown, found.source
        natural = "unit" if source == "training rows" else "none"
    else:
        assert items.rows is not None  # items alone are a table
        vectors = items.rows.embeddings()
        if vectors is None:
            raise ValueError(
                "say what the items' vectors are: a list column (--embedding COLUMN), numeric "
                "columns (--features COLUMN ...), or a log (--logs) in which they are found"
            )
        _check_finite(vectors, items.catalogue)
        known, source = vectors.abs().amax(-1) > 0, "item table"
        natural = "none"
    return _scaled(vectors, known, natural if scale == "auto" else scale), known, source


def _check_finite(vectors: Tensor, items: Catalogue) -> None:
    broken = (~vectors.isfinite().all(-1)).nonzero().squeeze(-1)
    if broken.numel():
        item = items.decode([int(broken[0])])[0]
        raise ValueError(
            f"the vector of item {item!r} is not finite ({len(broken)} such items); mend them, or "
            "leave these items out of the table"
        )


def _scaled(vectors: Tensor, known: Tensor, scale: str) -> Tensor:
    if scale == "unit":
        return F.normalize(vectors, dim=-1)
    if scale == "standard":
        mean = _mean(vectors, known)
        spread = _mean((vectors - mean).square(), known).sqrt()
        scaled = (vectors - mean) / torch.where(spread > 0, spread, 1.0)
        return torch.where(known[:, None], scaled, 0.0)
    return vectors


def _mean(vectors: Tensor, known: Tensor) -> Tensor:
    """Of the known rows, summed in float64, a block at a time."""
    blocks = zip(vectors.split(_ROWS), known.split(_ROWS), strict=True)
    whole = sum(rows[mine].double().sum(0) for rows, mine in blocks)
    return (whole / known.sum()).to(vectors.dtype)


# -- codes --------------------------------------------------------------------------------------


def _made(config: TokenizeConfig, items: _Items) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """New codes, the vectors that they are of, and what there is to tell."""
    vectors, known, source = _vectors(config, items)
    if not known.any():
        raise ValueError(
            f"none of the {len(known)} items has a vector ({source}): all of them are zeros; name "
            "another column, or let a log say what is alike (--logs)"
        )
    with progress_bars() as progress:
        found = residual_kmeans(
            vectors if bool(known.all()) else vectors[known],
            levels=config.levels,
            codes=config.codes,
            balanced=config.balanced,
            seed=config.seed,
            fitted_to=config.fitted_to,
            progress=lambda done, levels: progress("levels", done, levels),
        )
    codes = torch.empty(len(known), config.levels, dtype=torch.long)
    codes[known] = found.codes
    strangers = ~known
    # A path of its own, which says nothing: their rows would otherwise all lie on one leaf.
    draw = torch.Generator().manual_seed(config.seed)
    for level, book in enumerate(found.codebooks):
        drawn = torch.randint(len(book), (int(strangers.sum()),), generator=draw)
        codes[strangers, level] = drawn
    if config.unique:
        codes = told_apart(codes, None if items.data is None else _popularity(items.data))
    facts = {
        "vectors": source,
        "width": vectors.shape[1],
        "without_vector": int(strangers.sum()),
        "quantisation_error": found.error,
    }
    return codes, vectors, facts


def _existing(
    config: TokenizeConfig, items: _Items
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """The codes that the item table has, and vectors where it has those too."""
    codes = None if items.rows is None else items.rows.codes()
    if codes is None:
        raise ValueError(
            "there are no codes to report on: name their columns in the schema (items: codes), or "
            "by --items FILE --id COLUMN --existing COLUMN ..."
        )
    assert items.rows is not None  # codes come from it
    if config.features is None and items.rows.table.embedding is None:
        return codes, None, {"vectors": None}
    vectors, _, source = _vectors(config, items)
    return codes, vectors, {"vectors": source, "width": vectors.shape[1]}


def _seen(data: SplitLog | None) -> dict[str, Any]:
    """What a log says of its items: how often, and which after which."""
    if data is None:
        return {}
    events = torch.bincount(data.test.column("action"), minlength=data.num_items)
    out: dict[str, Any] = {"popularity": _popularity(data), "events": events}
    if data.has_histories:
        before, after = [], []
        for rows in data.train_batches(_ROWS):
            last = rows["observation", "history"][:, -1]
            before.append(last[last >= 0])
            after.append(rows["action"][last >= 0])
        out["together"] = torch.cat(before), torch.cat(after)
    return out


def _popularity(data: SplitLog) -> Tensor:
    """Training rows of each item."""
    return torch.bincount(data.train_items(), minlength=data.num_items)


# -- what comes out -----------------------------------------------------------------------------


def _write(config: TokenizeConfig, items: _Items, codes: Tensor) -> dict[str, Any]:
    """Writes the item table; returns what a schema says of it."""
    names = tuple(f"{config.prefix}{level}" for level in range(codes.shape[1]))
    write_item_table(config.output, names, codes, items.catalogue, items.rows, items.id_name)
    beside = config.logs is not None and Path(config.logs).resolve().parent
    path = (
        config.output.name
        if config.output.resolve().parent == beside
        else str(config.output.resolve())
    )
    table = ItemTable(path=path, id=items.id_name, codes=names)
    if items.rows is not None:
        old = items.rows.table
        table = replace(table, embedding=old.embedding, features=old.features)
        table = replace(table, features_until=old.features_until)
    declared = LogSchema(item=table.id, items=table, duplicates="keep").to_json(compact=True)
    return {"output": str(config.output), "schema_items": json.loads(declared)["items"]}
