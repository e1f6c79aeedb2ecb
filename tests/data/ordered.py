"""The order that a log's rows should be stored in, as pandas finds it."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from torchrl_drpo.data.sources.hashing import row_hashes


def ordered(
    frame: pd.DataFrame,
    logged: pd.DataFrame | None = None,
    by: tuple[str, str] = ("user", "time"),
) -> pd.DataFrame:
    """Rows by user and time, without duplicates; ties as the hashes of what was ``logged``."""
    batch = pa.RecordBatch.from_pandas(frame if logged is None else logged, preserve_index=False)
    kept = frame.assign(hash=row_hashes(batch)).drop_duplicates()
    return kept.sort_values([*by, "hash"], kind="stable").drop(columns="hash")
