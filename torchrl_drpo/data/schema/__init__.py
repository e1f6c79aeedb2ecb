"""What a log's columns mean: declared once, checked at once, saved beside the data as JSON.

Plain Python: neither torch nor numpy is imported here, so that a command's options, or a service
that only looks at a schema, do not wait for them.
"""

from .files import TextFiles
from .lists import Lists
from .log import LogSchema
from .quality import EventValues, Percentile, ReturnToGo, RewardFormula
from .tables import InitialHistory, ItemTable

__all__ = [
    "EventValues",
    "InitialHistory",
    "ItemTable",
    "Lists",
    "LogSchema",
    "Percentile",
    "ReturnToGo",
    "RewardFormula",
    "TextFiles",
]
