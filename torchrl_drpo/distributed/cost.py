"""What a training step among ranks costs on paper: bytes, floating-point operations, time.

Every rank has N rows of a batch, of which a fraction kappa is scored against V items of width D.
The table lies on Rv of the R ranks (R / Rv copies of it); those Rv ranks score each other's rows.
Bytes are those that this package hands to the collectives, and tests count them; times are those
of a machine with the numbers of :class:`Machine`, and have not been measured on one with many GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchrl_drpo.functional.exact_sums import LIMBS

#: Digits of a float32 key, most significant first; see :mod:`torchrl_drpo.functional.radix`.
_DIGITS = (11, 11, 10)


@dataclass(frozen=True)
class Machine:
    """One GPU and its links.

    Attributes:
        flops: products of bfloat16 a second.
        memory: bytes a second of its own memory.
        near: bytes a second to a GPU of the same node, one direction.
        far: the same to another node.
        node: GPUs of a node.
        share: of a link's speed that a collective reaches.
        near_latency: seconds of a small collective within a node.
        far_latency: the same beyond, to which each doubling of nodes adds a tenth.
    """

    flops: float = 790e12
    memory: float = 4.3e12
    near: float = 450e9
    far: float = 50e9
    node: int = 8
    share: float = 0.8
    near_latency: float = 10e-6
    far_latency: float = 25e-6

    def latency(self, ranks: int) -> float:
        """Seconds of a small collective."""
        if ranks <= self.node:
            return self.near_latency
        return self.far_latency * (1 + 0.1 * math.log2(ranks / self.node))

    def seconds(self, size: float, ranks: int) -> float:
        """A gather, a scatter or an exchange of ``size`` bytes in all; a sum is two of them."""
        if ranks == 1:
            return 0.0
        speed = (self.near if ranks <= self.node else self.far) * self.share
        return self.latency(ranks) + (ranks - 1) / ranks * size / speed


@dataclass(frozen=True)
class Step:
    """A training step.

    Attributes:
        ranks: R.
        rows: N of each rank.
        items: V.
        dim: D.
        kappa: fraction of the rows that is scored.
        item_ranks: Rv, among how many ranks one copy of the table is shared out.
        element: bytes of a number of a state: 4 for float32, 2 for bfloat16.

    Raises:
        ValueError: for numbers below 1, a kappa outside (0, 1], or an Rv that does not divide R.
    """

    ranks: int
    rows: int
    items: int
    dim: int
    kappa: float
    item_ranks: int
    element: int = 2

    def __post_init__(self) -> None:
        for name in ("ranks", "rows", "items", "dim", "item_ranks", "element"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.kappa <= 1:
            raise ValueError(f"kappa must lie in (0, 1], got {self.kappa}")
        if self.ranks % self.item_ranks:
            raise ValueError(
                f"item_ranks must divide the {self.ranks} ranks, got {self.item_ranks}"
            )

    @property
    def scored(self) -> int:
        """Rows that each rank scores against its items: the kept ones of Rv ranks."""
        return self.item_ranks * max(1, math.floor(self.kappa * self.rows + 0.5))

    @property
    def own_items(self) -> int:
        """Items of a rank."""
        return -(-self.items // self.item_ranks)


def selection_bytes(ranks: int) -> int:
    """Handed to the four collectives of the global selection, whatever the number of rows.

    The first histogram serves three searches (the threshold, the largest, the smallest value).

    >>> selection_bytes(8)
    45888
    """
    bins = [1 << bits for bits in _DIGITS]
    return 4 * (bins[0] + 3 * sum(bins[1:])) + 8 * (1 + 4 * LIMBS) * ranks


def log_prob_bytes(scored: int, dim: int, ranks: int, element: int = 4) -> tuple[int, int]:
    """Handed to the collectives of one log-probability a row, forward and backward.

    Forward the counts, the states and the items go to all, two numbers a row and shard come back;
    backward these numbers' gradients go out, and those of the states come back.

    >>> log_prob_bytes(64, 64, 2)
    (17424, 16896)
    """
    forward = 8 * ranks + scored * (dim * element + 8 + 8)
    backward = scored * (8 + dim * max(element, 4))  # no sum in half precision
    return forward, backward


def report(step: Step, machine: Machine | None = None) -> dict[str, float]:
    """Bytes, operations and milliseconds of a step, by name, of each rank.

    Scores, traffic, copies and the optimiser do not overlap here; the selection, which needs the
    rewards alone, is apart.
    """
    machine = machine or Machine()
    k, own, d, rv = step.scored, step.own_items, step.dim, step.item_ranks
    copies = step.ranks // rv
    flops = 8.0 * k * d * own  # forward 2, once more for the gradients, and 4 of theirs
    reads = 6.0 * (own + k) * d
    forward, backward = log_prob_bytes(k, d, rv, step.element)
    traffic = machine.seconds(forward, rv) + machine.seconds(backward, rv)
    table = 4.0 * own * d
    # Copies of a shard lie in different nodes, where there are several.
    across = machine.far if step.ranks > machine.node else machine.near
    copied = 0.0
    if copies > 1:
        spread = 2 * (copies - 1) / copies * table / (across * machine.share)
        copied = machine.latency(step.ranks) + spread
    histograms = [4.0 * (1 << _DIGITS[0]), *(12.0 * (1 << bits) for bits in _DIGITS[1:])]
    chosen = sum(2 * machine.seconds(size, step.ranks) for size in histograms)
    chosen += machine.seconds(8.0 * (1 + 4 * LIMBS) * step.ranks, step.ranks)
    scores = max(flops / machine.flops, reads / machine.memory)
    adam = 7 * table / machine.memory
    return {
        "rows scored": k,
        "items of a rank": own,
        "scores, flop": flops,
        "selection, bytes": selection_bytes(step.ranks),
        "log-prob, bytes": forward + backward,
        "table, gradient and Adam, bytes": 4 * table,
        "selection, ms": 1e3 * chosen,
        "scores, ms": 1e3 * scores,
        "log-prob traffic, ms": 1e3 * traffic,
        "copies of the table, ms": 1e3 * copied,
        "Adam on the table, ms": 1e3 * adam,
        "step, ms": 1e3 * (scores + traffic + copied + adam),
    }
