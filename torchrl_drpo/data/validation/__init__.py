"""A log against its schema: every fault, counted, with examples."""

from .report import Fault, ValidationReport
from .validate import validate_log

__all__ = ["Fault", "ValidationReport", "validate_log"]
