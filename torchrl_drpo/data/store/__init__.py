"""A converted log on disk: its layout, how it appears atomically, and how it is opened."""

from .report import ConversionReport
from .store import LogStore

__all__ = ["ConversionReport", "LogStore"]
