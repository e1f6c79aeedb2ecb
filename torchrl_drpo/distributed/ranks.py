"""How many ranks there are, which modules they share out, and what is said once a process."""

from __future__ import annotations

import sys
import warnings

import torch
from torch import distributed, nn

_AVAILABLE = distributed.is_available()
_told: set[str] = set()


@torch.compiler.assume_constant_result
def world_size() -> int:
    """Ranks of the default process group; 1 without one. Asks no other rank.

    Examples:
        >>> world_size()
        1
    """
    if not (_AVAILABLE and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether FSDP2's ``fully_shard`` was given this very module.

    Examples:
        >>> is_fully_sharded(nn.Linear(2, 2))
        False
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who has not imported it has not used it
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


@torch.compiler.assume_constant_result
def warn_once(topic: str, message: str) -> bool:
    """Warns unless this process was warned of the topic before; whether it was warned now."""
    if topic in _told:
        return False
    _told.add(topic)
    warnings.warn(message, stacklevel=2)
    return True


def names_of_shards(module: nn.Module) -> list[str]:
    """Parameters that hold shards, named as DDP asks for what it is to leave alone."""
    names = [n for n, p in module.named_parameters() if hasattr(p, "shard_rows")]
    return names + [f".{name}" for name in names if "." not in name]
