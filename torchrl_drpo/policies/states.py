"""A state of fixed form: what a user did last and where, as one vector that nothing learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.functional.checks import check_finite
from torchrl_drpo.policies.encoders import FARTHEST

#: Widest code of one context column. More values than that share the width as random directions,
#: which in so many dimensions are nearly orthogonal.
CODE_WIDTH = 64


class StateVector(nn.Module):
    r"""History, context and features of a row, side by side in one vector.

    A policy over item vectors and the reward model behind its recipe read the same numbers, and a
    kernel on states needs them to stay: so nothing here is learned. Up to three kinds of blocks:

    - the mean of the history's item directions, width ``dim``; zeros for an empty history;
    - a code for each context column: one-hot (an unknown value has a place of its own), or a
      random unit vector of width ``CODE_WIDTH`` where a column has more values;
    - the numeric features.

    :meth:`calibrate` centres them on the training rows and scales them so that all blocks have the
    same mean square (features: all columns have), and the entries together a mean square of one:
    no block drowns another in a distance, and a network's first layer starts where it should. A
    block or feature that is constant there is centred only: it says nothing in training, and what
    it says of a new row is in its own units.

    Args:
        dim: width of the item vectors; 0 leaves histories out.
        context_sizes: number of values of each context column; ids lie in ``[0, n)``, -1 is an
            unknown one.
        num_features: number F of numeric features.

    Attributes:
        width: p, entries of a state, at least 1: a row that says nothing has one entry, 0.

    Raises:
        ValueError: if ``dim`` or ``num_features`` is below 0, or a context column has no value.

    Examples:
        >>> state = StateVector(2, context_sizes=(3,))
        >>> directions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> mask = torch.tensor([[True, True], [False, False]])
        >>> state(directions, mask, torch.tensor([[2], [-1]]))
        tensor([[0.5000, 0.5000, 0.0000, 0.0000, 0.0000, 1.0000],
                [0.0000, 0.0000, 1.0000, 0.0000, 0.0000, 0.0000]])
    """

    mean: Tensor
    scale: Tensor
    limit: Tensor

    def __init__(
        self, dim: int, *, context_sizes: Sequence[int] = (), num_features: int = 0
    ) -> None:
        super().__init__()
        if dim < 0 or num_features < 0 or min(context_sizes, default=1) < 1:
            raise ValueError(
                "expected dim and num_features of at least 0 and columns of at least 1 value, got "
                f"{dim}, {num_features} and {tuple(context_sizes)}"
            )
        self.dim, self.num_features = dim, num_features
        self.num_columns = len(context_sizes)
        blocks = [dim] if dim else []
        for column, size in enumerate(context_sizes):
            code = _codes(size + 1, column)
            self.register_buffer(f"code_{column}", code)
            blocks.append(code.shape[1])
        self._blocks = blocks
        self.width = max(1, sum(blocks) + num_features)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("scale", torch.ones(self.width))
        self.register_buffer("limit", torch.tensor(torch.inf))

    def forward(
        self,
        directions: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """The states of rows.

        Args:
            directions: unit vectors of the history's items, ``[*B, L, dim]``; any width without
                histories.
            mask: which of them are there, bool ``[*B, L]``.
            context: ids, int64 ``[*B, C]``.
            features: ``[*B, F]``; left out (a user of whom they are not known), they count as the
                training rows' mean.

        Returns:
            Shape ``[*B, p]``.

        Raises:
            ValueError: for another number of columns or features.
        """
        out = (self._raw(directions, mask, context, features) - self.mean) / self.scale
        if not self.num_features:
            return out
        rest, tail = out.split([self.width - self.num_features, self.num_features], -1)
        return torch.cat([rest, tail.clamp(-self.limit, self.limit)], -1)

    def usual_features(self) -> Tensor | None:
        """The training rows' mean features ``[F]``; ``None`` for a state without any."""
        return self.mean[-self.num_features :] if self.num_features else None

    @torch.no_grad()
    def calibrate(
        self, rows: Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]
    ) -> StateVector:
        """Fits centre and scale to training rows.

        Args:
            rows: blocks of rows, each the arguments of :meth:`forward`; read once, so they may
                come from disk. Sums are float64.

        Returns:
            This module.

        Raises:
            ValueError: without rows, or for features that are not finite.
        """
        self.mean.zero_()
        self.scale.fill_(1.0)
        count = 0
        mean, squares = (
            self.mean.double(),
            self.mean.double(),
        )  # squares: of distances from the mean
        for block in rows:
            raw = self._raw(*block).reshape(-1, self.width)
            if not len(raw):
                continue
            check_finite("states", raw, hint="drop or mend these features")
            # Merged by distances (Chan, Golub and LeVeque 1983, "Algorithms for computing the
            # sample variance"): squares alone would leave nothing of a clock's variance.
            own, count = raw.mean(0, dtype=torch.float64), count + len(raw)
            apart, part = own - mean, len(raw) / count
            squares += (raw - own).square().sum(0) + apart.square() * (len(raw) * (1.0 - part))
            mean += apart * part
        if count == 0:
            raise ValueError("states cannot be calibrated on no rows at all")
        spread = squares / count
        self.mean.copy_(mean)
        share = self.width / max(1, len(self._blocks) + bool(self.num_features))
        self.scale.copy_(self._scales(spread, mean, share))
        if self.num_features:
            self.limit.fill_(FARTHEST * (share / self.num_features) ** 0.5)
        return self

    def _scales(self, variance: Tensor, mean: Tensor, share: float) -> Tensor:
        """Divisors of all entries: each block (each feature within its block) to an equal share."""
        scale = torch.ones_like(variance)
        tiny = 1e-12 * (1.0 + mean.square())  # what float32 leaves of a constant block
        start = 0
        for size in self._blocks:
            block = slice(start, start + size)
            total = variance[block].sum()
            if total > tiny[block].sum():
                scale[block] = (total / share).sqrt()
            start += size
        own, tail = variance[start:], slice(start, None)
        if self.num_features:  # as they were logged: a constant leaves float64's rounding only
            varies = own > 1e-24 * mean[tail].square()
            wanted = (own * self.num_features / share).sqrt()
            least = torch.finfo(self.scale.dtype).tiny
            scale[tail] = torch.where(varies, wanted.clamp_min(least), 1.0)
        return scale

    def _raw(
        self,
        directions: Tensor,
        mask: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        columns = 0 if context is None else context.shape[-1]
        if columns != self.num_columns:
            raise ValueError(f"expected {self.num_columns} context columns, got {columns}")
        parts = []
        if self.dim:
            there = mask.unsqueeze(-1).to(directions.dtype)
            parts.append((directions * there).sum(-2) / there.sum(-2).clamp_min(1.0))
        for column in range(columns):
            assert context is not None  # it has columns
            parts.append(F.embedding(context[..., column] + 1, getattr(self, f"code_{column}")))
        if self.num_features:
            parts.append(self._features(features, mask.shape[:-1]))
        if not parts:
            return self.mean.new_zeros(*mask.shape[:-1], 1)
        return torch.cat(parts, -1)

    def _features(self, features: Tensor | None, batch: torch.Size) -> Tensor:
        if features is None:
            features = self.mean[-self.num_features :].expand(*batch, self.num_features)
        if features.shape[-1] != self.num_features:
            raise ValueError(f"expected {self.num_features} features, got {features.shape[-1]}")
        return features.to(self.mean.dtype)


def _codes(values: int, column: int) -> Tensor:
    """One code for each value of a column, ``[values, w]``: always the same ones."""
    if values <= CODE_WIDTH:
        return torch.eye(values)
    generator = torch.Generator().manual_seed(column)
    return F.normalize(torch.randn(values, CODE_WIDTH, generator=generator), dim=-1)
