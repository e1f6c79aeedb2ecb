"""State of which each rank holds a part, in a folder that any number of ranks can read.

    index.json                          names, shapes, rows, digests, plain data; replaced last
    <tag>-common.safetensors            what all ranks hold alike, written by rank 0
    <tag>-00001-of-00004.safetensors    rank 1's rows of the tables that are shared out

Files of a new state lie beside those of the old one until the index names them, so a run that dies
while it saves leaves the old state whole. Nothing is unpickled, and every file's digest is checked
by the ranks that read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.nested import assembled, flattened
from torchrl_drpo.files import digest, read_sealed_json, replacing, write_sealed_json

#: Raised whenever the layout of the folder changes.
VERSION = 1
KIND = "torchrl-drpo sharded state"
_INDEX = "index.json"


def save_sharded(
    folder: str | os.PathLike[str],
    state: Mapping[str, Any],
    rows: Mapping[str, tuple[int, int, int]],
    ranks: Ranks,
    tag: str,
) -> None:
    """Writes a state; every rank calls it, and it returns when all is written.

    Args:
        folder: where; made where needed.
        state: nested dictionaries and lists of tensors and plain data, of the same form on every
            rank; of what is not shared out, rank 0's is kept.
        rows: tensors that are shared out by their path (``"loss_module/items"``): this rank's
            first row, the one behind its last, and the number of all rows.
        ranks: who saves.
        tag: names this state's files, such as its step; another one than the last state's.

    Raises:
        RuntimeError: on every rank, if a rank could not write its file.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors, plain = flattened(dict(state))
    missing = sorted(set(rows) - set(tensors))
    if missing:
        raise KeyError(f"the state has no tensors {missing}; it has {sorted(tensors)}")
    file = folder / f"{tag}-{ranks.rank:05d}-of-{ranks.size:05d}.safetensors"
    common = folder / f"{tag}-common.safetensors"
    written = {file: {name: tensors[name] for name in rows}}
    if ranks.rank == 0:
        written[common] = {name: t for name, t in tensors.items() if name not in rows}
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in written.items():
            with replacing(path) as partial:
                save_file({k: _on_host(t) for k, t in content.items()}, partial)
    except Exception as error:  # the others wait to hear of it
        problem = error
    own = bytes.fromhex(digest(file)) if problem is None else bytes(32)
    sums = ranks.gather(
        torch.tensor([*own, problem is not None], dtype=torch.uint8, device=ranks.device)
    )
    if sums[:, -1].any():
        failed = sums[:, -1].nonzero().flatten().tolist()
        raise RuntimeError(
            f"ranks {failed} could not write their part of {folder}; the state before is as it was"
        ) from problem
    bounds = {
        name: ranks.gather(torch.tensor(place, device=ranks.device)).tolist()
        for name, place in rows.items()
    }
    if ranks.rank == 0:
        files = {
            f"{tag}-{r:05d}-of-{ranks.size:05d}.safetensors": bytes(sums[r, :-1].tolist()).hex()
            for r in range(ranks.size)
        }
        older = _files_of(folder)
        index = {
            "kind": KIND,
            "version": VERSION,
            "common": {common.name: digest(common)},
            "shards": files,
            "rows": bounds,
            "plain": plain,
        }
        write_sealed_json(folder / _INDEX, index)
        for name in older - {*files, common.name}:
            (folder / name).unlink(missing_ok=True)
    ranks.gather(
        torch.zeros(1, device=ranks.device)
    )  # nobody goes on before the index names the new files


def load_sharded(
    folder: str | os.PathLike[str], rows: Mapping[str, tuple[int, int, int]] | None = None
) -> dict[str, Any]:
    """Reads a state, of the tables that are shared out only the rows asked for.

    Asks no other rank, so one process may read a state too.

    Args:
        folder: what :func:`save_sharded` wrote, on any number of ranks.
        rows: first row, the one behind the last, and the number of all rows of each such tensor;
            ``None`` for all rows of all.

    Raises:
        ValueError: for a folder that is not such a state, is damaged, or does not fit ``rows``.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    index = _index_of(folder)
    if rows is None:
        rows = {name: (0, bounds[0][2], bounds[0][2]) for name, bounds in index["rows"].items()}
    if set(rows) != set(index["rows"]):
        raise ValueError(
            f"{folder} shares out {sorted(index['rows'])}, this run {sorted(rows)}; make the actor "
            "as the one that was saved"
        )
    tensors: dict[str, Tensor] = {}
    for name, expected in index["common"].items():
        _check(folder / name, expected)
        tensors |= load_file(folder / name)
    checked: set[str] = set()
    for name, (low, high, total) in rows.items():
        bounds = index["rows"][name]
        if bounds[0][2] != total:
            raise ValueError(
                f"{folder} has {bounds[0][2]} rows of {name}, this run has {total}; it was saved "
                "with another catalogue"
            )
        parts = []
        for (file, expected), (first, last, _) in zip(index["shards"].items(), bounds, strict=True):
            start, stop = max(low, first), min(high, last)
            if start >= stop and not (low == high and not parts):  # of no rows, the form at least
                continue
            if file not in checked:
                _check(folder / file, expected)
                checked.add(file)
            parts.append(_read(folder / file, name, start - first, max(stop, start) - first))
        tensors[name] = torch.cat(parts)[: high - low]
    state: dict[str, Any] = assembled(tensors, index["plain"])
    return state


def is_sharded(folder: str | os.PathLike[str]) -> bool:
    """Whether a state lies there; looks at nothing but the index's name.

    >>> is_sharded("/nowhere")
    False
    """
    return (Path(folder) / _INDEX).is_file()


def _read(path: Path, name: str, start: int, stop: int) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        part: Tensor = file.get_slice(name)[max(start, 0) : max(stop, 0)]
    return part


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()  # storages must not be shared


def _check(path: Path, expected: str) -> None:
    if not path.is_file() or digest(path) != expected:
        raise ValueError(f"{path} is missing or damaged; delete the folder to start anew")


def _index_of(folder: Path) -> dict[str, Any]:
    try:
        index = read_sealed_json(folder / _INDEX)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no readable sharded state ({error})") from error
    if index.get("kind") != KIND or index.get("version") != VERSION:
        raise ValueError(
            f"{folder} holds {index.get('kind')!r} of version {index.get('version')}, this release "
            f"reads {KIND!r} of version {VERSION}"
        )
    for name in (*index["common"], *index["shards"]):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder}: its index names {name!r}, which is no file of a state")
    return index


def _files_of(folder: Path) -> set[str]:
    """Files of the state that lies there."""
    try:
        index = _index_of(folder)
    except ValueError:
        return set()
    return {*index["common"], *index["shards"]}
