"""A draft of a schema from a log nobody described: what its columns seem to be, and why."""

from .draft import Draft, draft_schema

__all__ = ["Draft", "draft_schema"]
