"""What a trie asks of a network: the logits of the next code behind a prefix."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class CodeDecoder(Protocol):
    """Scores the codes of a level behind the prefixes that led there.

    ``N`` rows have ``K`` prefixes each, all of one length. What the network remembers of them
    (*memory*) is its own business: tensors, a tuple of them, or nothing.
    """

    def start(self, hidden: Tensor) -> Any:
        """The memory of one empty prefix a row, of states ``[N, D]``."""
        ...

    def logits(self, memory: Any, level: int) -> Tensor:
        """Scores of all codes of a level, ``[N, K, C]``; ``[N, 1, C]`` where prefixes are alike."""
        ...

    def advance(self, memory: Any, parent: Tensor, code: Tensor, level: int) -> Any:
        """The memory after prefixes went on.

        Args:
            memory: of the old prefixes.
            parent: which of its row's old prefixes each new one goes on from, int64 ``[N, K']``.
            code: the code of ``level`` that it goes on with, int64 ``[N, K']``.
            level: of the code.
        """
        ...
