"""Any log into memory-mapped columns, by an external sort that can be killed at any point."""

from .convert import convert_log

__all__ = ["convert_log"]
