"""Cells that tests can run in worker processes: functions of a module that is quickly imported."""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path
from typing import Any


def double(*, x: float, log: str | None = None) -> dict[str, Any]:
    """Twice ``x``; leaves a line in ``log``, so that tests can count the runs."""
    if log is not None:
        with Path(log).open("a") as file:
            file.write(f"{x}\n")
    return {"twice": 2 * x, "pair": (x, x), "process": os.getpid()}


def fail(*, message: str) -> None:
    raise ArithmeticError(message)


def not_json() -> float:
    return float("nan")


def die(*, code: int) -> None:
    """As a process that the system kills."""
    os._exit(code)


def die_sending() -> None:
    """As a process that is killed while it sends its result: a header, and half of what it says."""
    frame = sys._getframe()
    while "pipe" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["pipe"].fileno(), struct.pack("!i", 1_000) + b"half")
    os._exit(9)


def sleep(*, seconds: float) -> None:
    time.sleep(seconds)


def threads() -> int:
    import torch

    return torch.get_num_threads()
