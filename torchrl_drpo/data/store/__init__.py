"""A converted log on disk: its layout, how it appears in one step, how it is opened and checked."""

from .manifest import StoreError
from .report import ConversionReport
from .store import LogStore
from .verify import StoreFault, StoreReport, verify_store

__all__ = [
    "ConversionReport",
    "LogStore",
    "StoreError",
    "StoreFault",
    "StoreReport",
    "verify_store",
]
