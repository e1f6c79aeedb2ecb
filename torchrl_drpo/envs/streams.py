"""Random streams: one for each part of each seed, none of which touches another.

Seeds that are neighbours must not share draws. With ``seed + 1`` for the log and ``seed + 2`` for
the users, the users of one seed would be the states of the next one's log, and an interval over
seeds would count as independent what is not.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, part: str) -> int:
    """The seed of one part of a seed's world: ``"log"``, ``"users"``, ``"batches"``, ...

    A hash of both, so that neither neighbouring seeds nor parts of one seed lie side by side.

    Args:
        seed: of the comparison.
        part: what is drawn.

    Returns:
        In [0, 2^63). Torch's CPU generators read the lowest 32 bits, which differ too for all
        parts of the first two thousand seeds.

    Example:
        >>> stream_seed(0, "log") == stream_seed(0, "log")
        True
        >>> len({stream_seed(seed, part) for seed in (0, 1) for part in ("log", "users")})
        4
    """
    digest = hashlib.sha256(f"{part} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, part: str) -> torch.Generator:
    """A generator on the CPU, at the start of the stream of :func:`stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, part))
