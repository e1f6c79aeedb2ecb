"""Where a log comes from: Parquet, text, JSON lines, URIs, frames, streams; read in batches."""

from .errors import LogError
from .inputs import Input
from .source import BATCH_ROWS, Batch, LogSource

__all__ = ["BATCH_ROWS", "Batch", "Input", "LogError", "LogSource"]
