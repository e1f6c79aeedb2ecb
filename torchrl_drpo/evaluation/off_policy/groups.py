r"""Groups of items: how likely a policy is to take any item of the logged item's group.

    log pi(c | x) = logsumexp_{a in c} z(x, a) - logsumexp_a z(x, a)

MIPS and OffCEM need this number of the logged action's group alone, so a row looks at the items of
one group beside the normaliser that its item's probability needs anyway: neither ``[n, V]`` nor
``[n, groups]`` is made. With groups of one item it is the item's log-probability.

Of the logging policy the same number is needed. Best it is computed from that policy itself
(``score_log(..., behavior=...)``). Where the log only has propensities of items, a group's
probability is not in it: it takes a fitted model (:func:`fit_behavior` with ``groups``), or, where
the logging policy looked at nothing, the log's frequencies (:func:`group_frequencies`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.evaluation.off_policy.catalogue import (
    catalogue_sums,
    is_enumerable,
    num_actions,
)
from torchrl_drpo.evaluation.off_policy.cells import kmeans_cells

_SCORES_AT_A_TIME = 2**18


class ItemGroups:
    """A partition of a catalogue's items.

    Args:
        group: group of each item, integers of any value, ``[V]``: categories, or what
            :meth:`from_vectors` and :meth:`from_codes` make.

    Raises:
        ValueError: for another shape or type.

    Example:
        >>> groups = ItemGroups(torch.tensor([7, 7, 3]))
        >>> len(groups), groups.of(torch.tensor([0, 2])).tolist()
        (2, [1, 0])
        >>> groups.members(1).tolist()
        [0, 1]
    """

    def __init__(self, group: Tensor) -> None:
        if group.ndim != 1 or group.is_floating_point() or group.numel() == 0:
            raise ValueError(
                "expected one group an item, integers [V], got "
                f"{group.dtype} of shape {tuple(group.shape)}"
            )
        _, self._of_item = torch.unique(group.cpu(), return_inverse=True)
        self._sorted = self._of_item.argsort(stable=True)
        size = torch.bincount(self._of_item)
        self._stop = size.cumsum(0)
        self._start = self._stop - size

    @classmethod
    def from_vectors(cls, vectors: Tensor, cells: int, *, seed: int = 0) -> ItemGroups:
        """K-means cells of item vectors ``[V, D]``."""
        return cls(kmeans_cells(vectors, cells, seed=seed))

    @classmethod
    def from_codes(cls, codes: Tensor, levels: int = 1) -> ItemGroups:
        """Items that share the first ``levels`` of their semantic-ID codes, ``[V, T]``.

        Example:
            >>> len(ItemGroups.from_codes(torch.tensor([[0, 1], [0, 2], [3, 1]])))
            2
        """
        if codes.ndim != 2 or not 1 <= levels <= codes.shape[1]:
            raise ValueError(
                f"expected codes [V, T] and levels in [1, T], got {tuple(codes.shape)} and {levels}"
            )
        return cls(torch.unique(codes[:, :levels], dim=0, return_inverse=True)[1])

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._start)

    @property
    def num_items(self) -> int:
        """V, the size of the catalogue."""
        return len(self._of_item)

    def of(self, item: Tensor) -> Tensor:
        """Number of each item's group, int64 in ``[0, groups)``, any shape."""
        return self._of_item.to(item.device)[item]

    def members(self, group: int) -> Tensor:
        """The items of one group, ascending int64."""
        return self._sorted[self._start[group] : self._stop[group]]

    @torch.no_grad()
    def log_prob(
        self, dist: Distribution, action: Tensor, log_normaliser: Tensor | None = None
    ) -> Tensor:
        r"""Log-probability of each action's group under the policy.

        Args:
            dist: a :class:`~torchrl_drpo.CatalogueCategorical`, torch's ``Categorical`` (whose
                ``logits`` are a block ``[n, V]``), or a policy that counts what it draws
                (:class:`DecodedPolicy`).
            action: items, int64 ``[n]``.
            log_normaliser: of the policy at each row, where it is known, ``[n]``.

        Returns:
            Nats, float64 ``[n]``.

        Raises:
            TypeError: for another kind of policy.
            ValueError: for one over another catalogue.
        """
        _check_items(action, self.num_items)
        own = getattr(dist, "group_log_prob", None)
        if own is not None:
            counted: Tensor = own(self, action)
            return counted
        if not is_enumerable(dist):
            raise TypeError(
                f"groups of items need a policy over items, got {type(dist).__name__}; of a policy "
                "over vectors count what it serves, with DecodedPolicy"
            )
        if num_actions(dist) != self.num_items:
            raise ValueError(
                f"the groups are of {self.num_items} items, the policy is over {num_actions(dist)}"
            )
        if log_normaliser is None:
            log_normaliser = catalogue_sums(dist).log_normaliser
        out = torch.empty(len(action), dtype=torch.float64)
        of_row = self.of(action).cpu()
        order = of_row.argsort(stable=True)
        found, counts = torch.unique_consecutive(of_row[order], return_counts=True)
        for group, rows in zip(found.tolist(), order.split(counts.tolist()), strict=True):
            out[rows] = _log_sum(dist, rows, self.members(group))
        return out - log_normaliser.to(out)


def group_frequencies(groups: ItemGroups, action: Tensor) -> Tensor:
    """Logarithm of the share of the rows whose action is of this row's group, float64 ``[n]``.

    The logging policy's probability of the group where that policy looks at nothing: of random and
    popularity loggers. Of one that looks at the user it is not.

    Example:
        >>> groups = ItemGroups(torch.tensor([0, 0, 1]))
        >>> group_frequencies(groups, torch.tensor([0, 1, 1, 2])).exp()
        tensor([0.7500, 0.7500, 0.7500, 0.2500], dtype=torch.float64)
    """
    _check_items(action, groups.num_items)
    of_row = groups.of(action.reshape(-1))
    share = torch.bincount(of_row, minlength=len(groups)).double() / len(of_row)
    return share.log()[of_row]


def _check_items(item: Tensor, num_items: int) -> None:
    """Refuses padding and raw ids: -1 would be of the last item's group."""
    bad = ((item < 0) | (item >= num_items)).reshape(-1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"action must lie in [0, {num_items}) but row {bad[0]} holds "
            f"{item.reshape(-1)[bad[0]].item()}: are the groups those of this log's catalogue?"
        )


def _log_sum(dist: Distribution, rows: Tensor, items: Tensor) -> Tensor:
    """Logsumexp of some items' scores at some rows, in float64: a group of one is the item."""
    width = min(len(items), _SCORES_AT_A_TIME)
    parts = []
    for block in rows.split(_SCORES_AT_A_TIME // width):
        lse = torch.full((len(block),), -torch.inf, dtype=torch.float64)
        for tile in items.split(width):
            lse = torch.logaddexp(lse, _scores(dist, block, tile).logsumexp(-1).cpu())
        parts.append(lse)
    return torch.cat(parts)


def _scores(dist: Distribution, rows: Tensor, items: Tensor) -> Tensor:
    if not isinstance(dist, CatalogueCategorical):
        logits = dist.logits.reshape(-1, dist.logits.shape[-1])
        rows, items = rows.to(logits.device), items.to(logits.device)
        return logits[rows.unsqueeze(-1), items].double()
    rows, items = rows.to(dist.hidden.device), items.to(dist.hidden.device)
    hidden = dist.hidden.reshape(-1, dist.hidden.shape[-1])[rows].double()
    scores = hidden @ dist.items[items].double().T
    if dist.bias is not None:
        scores = scores + dist.bias[items].double()
    return scores / dist.temperature
