"""What the table shows, and where its numbers are."""

from __future__ import annotations

SCENARIOS = ("medium", "extreme")
#: In the order of the table.
SHOWN = ("APG", "BC", "CRR", "BPPO", "AWR", "IQL", "AsymRE", "Adaptive BC", "DRPO-Exp", "DRPO")
DISTANCE = "action_distance"


def name_of(method: str, scenario: str) -> str:
    """The cell of a method on a mixture."""
    return f"{scenario}.{method.replace(' ', '-')}"
