"""Logs that lie in memory: frames of any library that offers Arrow data, flat TensorDicts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa


def as_table(source: Any) -> pa.Table | None:
    """An Arrow table from a frame or a flat TensorDict, None for paths and what is no frame.

    Raises:
        LogError: if it says that it is a frame, but is none that Arrow can hold.
    """
    import pyarrow as pa

    if isinstance(source, str | os.PathLike | list | tuple):
        return None
    if isinstance(source, pa.Table):
        return source
    try:
        return _converted(source)
    except LogError:
        raise
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise LogError(
            f"the {type(source).__name__} cannot be read as a table: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def _converted(source: Any) -> pa.Table | None:
    import pyarrow as pa

    if _is_a(source, "pandas", "DataFrame"):  # its own protocol makes the index a column
        return pa.Table.from_pandas(source, preserve_index=False)
    if _is_a(source, "tensordict", "TensorDictBase"):
        return _flat_tensordict(source)
    if _is_a(source, "polars", "LazyFrame"):
        source = source.collect()
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"):
        return pa.table(source)
    if hasattr(source, "to_table"):  # Arrow's data sets and scanners
        return source.to_table()
    if hasattr(source, "__dataframe__"):
        from pyarrow.interchange import from_dataframe

        return from_dataframe(source)
    return None


def _is_a(source: Any, module: str, name: str) -> bool:
    """Whether an object is of a library's class; where that was never imported, it is not."""
    library = sys.modules.get(module)
    return library is not None and isinstance(source, getattr(library, name, ()))


def _flat_tensordict(source: Any) -> pa.Table:
    import pyarrow as pa

    flat = {key: source.get(key) for key in source.keys()}  # noqa: SIM118 (TensorDict)
    nested = [key for key, value in flat.items() if getattr(value, "ndim", 2) != 1]
    if nested:
        raise LogError(
            f"a TensorDict read through a schema holds one number a row and key, but {nested} "
            "are nested or have more dimensions; pass TED rows without a schema"
        )
    return pa.table({key: value.cpu().numpy() for key, value in flat.items()})


def hash_table(digest: Any, table: pa.Table) -> None:
    """Feeds a table's content to a ``hashlib`` digest, without a copy of it."""
    import pyarrow as pa

    class _Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    with pa.ipc.new_stream(pa.PythonFile(_Sink(), mode="w"), table.schema) as writer:
        writer.write_table(table)
