"""Logs that lie in memory: pandas and polars frames, Arrow tables, flat TensorDicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa


def as_table(source: Any) -> pa.Table | None:
    """An Arrow table from a frame or a flat TensorDict, None for paths."""
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    module = type(source).__module__.partition(".")[0]
    if module == "pandas":
        return pa.Table.from_pandas(source, preserve_index=False)
    if module == "polars":
        return (source.collect() if hasattr(source, "collect") else source).to_arrow()
    if module == "tensordict":
        flat = {key: source.get(key) for key in source.keys()}  # noqa: SIM118 (TensorDict)
        nested = [key for key, value in flat.items() if getattr(value, "ndim", 2) != 1]
        if nested:
            raise LogError(
                f"a TensorDict read through a schema holds one number a row and key, but {nested} "
                "are nested or have more dimensions; pass TED rows without a schema"
            )
        return pa.table({key: value.cpu().numpy() for key, value in flat.items()})
    return None


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
