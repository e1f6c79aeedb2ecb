"""The settings of ``drpo doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DoctorConfig:
    """Say what is installed, what runs where, and whether it computes what it should.

    Exit code 1 where something that is needed is missing, or an op is wrong.

    Attributes:
        json: print JSON instead of tables.
    """

    json: bool = False
