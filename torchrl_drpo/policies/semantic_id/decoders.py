"""From a state and a prefix of codes to the logits of the next code.

All decode lazily: the history is read once, by the encoder, and a prefix is a few small steps from
its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: How a prefix and a state become the next code's logits.
Head = Literal["gru", "transformer", "parallel"]


class CodeTables(nn.Module):
    """Vectors and biases of the codes of all levels.

    Args:
        sizes: number of codes of each level.
        dim: width D of the vectors.
        inputs: whether codes have vectors as inputs of a later level, too.
        device: where the parameters live.

    Attributes:
        outputs: for each level, vectors ``[C, D]`` whose inner product with a prefix is a logit.
        biases: for each level, what is added to it, ``[C]``.
        inputs: for each level but the last, vectors ``[C, D]`` that stand for a code in a prefix.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        inputs: bool,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()

        def tables(chosen: Sequence[int]) -> nn.ParameterList:
            return nn.ParameterList(torch.empty(size, dim, device=device) for size in chosen)

        self.outputs = tables(sizes)
        self.biases = nn.ParameterList(torch.zeros(size, device=device) for size in sizes)
        self.inputs = tables(sizes[:-1] if inputs else ())
        for table in (*self.outputs, *self.inputs):  # of about unit length: logits start near 0
            nn.init.normal_(table, std=dim**-0.5)

    def logits(self, query: Tensor, level: int) -> Tensor:
        """Scores ``[*, C]`` of a level's codes at queries ``[*, D]``."""
        return F.linear(query, self.outputs[level], self.biases[level])

    def embed(self, code: Tensor, level: int) -> Tensor:
        """Vectors ``[*, D]`` of codes ``[*]`` of a level."""
        return F.embedding(code, self.inputs[level])


def of_parents(values: Tensor, parent: Tensor) -> Tensor:
    """The entries ``[N, K', ...]`` that new prefixes inherit of ``[N, K, ...]``."""
    rows, count = values.shape[:2]
    if count == 1:  # of the one prefix that there is: nothing is copied
        return values.expand(rows, parent.shape[1], *values.shape[2:])
    first = torch.arange(rows, device=parent.device).unsqueeze(1) * count
    return values.flatten(0, 1)[parent + first]  # whole entries lie side by side


class ParallelDecoder(nn.Module):
    """Levels that do not look at each other: each code by itself, given the state.

    The cheapest head, and the only one whose exact ranking asks nothing per prefix: an item's
    logit is a sum of its codes' logits. What siblings are legal still depends on the prefix.

    Args:
        sizes: number of codes of each level.
        dim: width D of states.
        device: where the parameters live.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.codes = CodeTables(sizes, dim, inputs=False, device=device)

    def start(self, hidden: Tensor) -> Tensor:
        """The states themselves, ``[N, 1, D]``."""
        return hidden.unsqueeze(1)

    def logits(self, memory: Tensor, level: int) -> Tensor:
        """``[N, 1, C]``: whatever the prefix."""
        return self.codes.logits(memory, level)

    def advance(self, memory: Tensor, parent: Tensor, code: Tensor, level: int) -> Tensor:
        """Nothing is remembered of a prefix."""
        return memory


class GRUDecoder(nn.Module):
    """A recurrent step a code, from the state.

    Args:
        sizes: number of codes of each level.
        dim: width D of states.
        device: where the parameters live.
    """

    def __init__(
        self, sizes: Sequence[int], dim: int, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.codes = CodeTables(sizes, dim, inputs=True, device=device)
        self.cell = nn.GRUCell(dim, dim, device=device)

    def start(self, hidden: Tensor) -> Tensor:
        """The states, ``[N, 1, D]``."""
        return hidden.unsqueeze(1)

    def logits(self, memory: Tensor, level: int) -> Tensor:
        """``[N, K, C]``."""
        return self.codes.logits(memory, level)

    def advance(self, memory: Tensor, parent: Tensor, code: Tensor, level: int) -> Tensor:
        """States after one more code, ``[N, K', D]``.

        The cell, with its two products taken where there are fewest rows: that of the state once a
        prefix, not once a successor, and that of the code once a code, where those are fewer.
        """
        cell, table = self.cell, self.codes.inputs[level]
        of_state = F.linear(memory, cell.weight_hh, cell.bias_hh)
        exported = torch.compiler.is_compiling()  # where the number of rows is not known
        if exported or len(table) < code.numel():
            of_code = F.embedding(code, F.linear(table, cell.weight_ih, cell.bias_ih))
        else:
            of_code = F.linear(F.embedding(code, table), cell.weight_ih, cell.bias_ih)
        reset, update, new = of_parents(of_state, parent).chunk(3, -1)
        code_reset, code_update, code_new = of_code.chunk(3, -1)
        new = torch.tanh(code_new + torch.sigmoid(code_reset + reset) * new)
        kept = torch.sigmoid(code_update + update)
        return torch.lerp(new, of_parents(memory, parent), kept)


class TransformerDecoder(nn.Module):
    """A causal transformer over the state and the codes so far: at most T places, cached.

    Blocks normalise before attention and before the network behind it. The memory of a prefix is
    the keys and values of its places, one pair a layer, and the last place's output.

    Args:
        sizes: number of codes of each level.
        dim: width D of states.
        layers: number of blocks.
        heads: of the attention; divides ``dim``.
        device: where the parameters live.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, or ``layers`` is below 1.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        layers: int = 1,
        heads: int = 4,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or heads < 1 or dim % heads:
            raise ValueError(
                f"expected at least 1 layer and heads that divide dim = {dim}, got {layers} layers "
                f"and {heads} heads"
            )
        self.codes = CodeTables(sizes, dim, inputs=True, device=device)
        self.places = nn.Parameter(torch.zeros(len(sizes), dim, device=device))
        self.blocks = nn.ModuleList(_Block(dim, heads, device) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, device=device)

    def start(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The memory of the state's place."""
        entry = (hidden + self.places[0]).unsqueeze(1)
        return self._through(entry, [None] * (2 * len(self.blocks)))

    def logits(self, memory: tuple[Tensor, ...], level: int) -> Tensor:
        """``[N, K, C]``."""
        return self.codes.logits(self.norm(memory[0]), level)

    def advance(
        self, memory: tuple[Tensor, ...], parent: Tensor, code: Tensor, level: int
    ) -> tuple[Tensor, ...]:
        """The memory with the code's place at the end."""
        entry = self.codes.embed(code, level) + self.places[level + 1]
        return self._through(entry, [of_parents(each, parent) for each in memory[1:]])

    def _through(self, entry: Tensor, cached: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            entry, keys, values = block(entry, *cached[2 * number : 2 * number + 2])
            kept += [keys, values]
        return (entry, *kept)


class _Block(nn.Module):
    """One place through attention to the places before it, and through a network."""

    def __init__(self, dim: int, heads: int, device: torch.device | str | None) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = (nn.LayerNorm(dim, device=device) for _ in range(2))
        self.project = nn.Linear(dim, 3 * dim, device=device)
        self.out = nn.Linear(dim, dim, device=device)
        self.network = nn.Sequential(
            nn.Linear(dim, 4 * dim, device=device),
            nn.GELU(),
            nn.Linear(4 * dim, dim, device=device),
        )

    def forward(
        self, entry: Tensor, keys: Tensor | None, values: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The place's output ``[N, K, D]``, and all places' keys and values ``[N, K, S, D]``."""
        query, key, value = self.project(self.before(entry)).unsqueeze(2).chunk(3, -1)
        keys = key if keys is None else torch.cat([keys, key], 2)
        values = value if values is None else torch.cat([values, value], 2)
        seen = F.scaled_dot_product_attention(*map(self._by_head, (query, keys, values)))
        entry = entry + self.out(seen.transpose(1, 2).flatten(1).view_as(entry))
        return entry + self.network(self.between(entry)), keys, values

    def _by_head(self, places: Tensor) -> Tensor:
        """``[N, K, S, D]`` as ``[N K, heads, S, D / heads]``."""
        return places.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)


def make_decoder(
    head: Head, sizes: Sequence[int], dim: int, *, device: torch.device | str | None = None
) -> nn.Module:
    """The decoder of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if head == "parallel":
        return ParallelDecoder(sizes, dim, device=device)
    if head == "gru":
        return GRUDecoder(sizes, dim, device=device)
    if head == "transformer":
        heads = next(count for count in (4, 2, 1) if dim % count == 0)
        return TransformerDecoder(sizes, dim, heads=heads, device=device)
    raise ValueError(f"head must be gru, transformer or parallel, got {head!r}")
