"""What a conversion writes down after each step, so that a killed one goes on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far a conversion came: the content of its journal."""

    batches: int = 0
    rows_read: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    partitioned: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    sorted: int = 0
    scored: int = 0
    users: int = 0
    rows: int = 0
    scored_rows: int = 0
    duplicates: int = 0
    trajectories: int = 0
    slates: int = 0
    history_items: int = 0
    parts: dict[str, int] = field(default_factory=dict)
