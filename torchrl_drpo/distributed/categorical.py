"""A categorical over a catalogue whose table is shared out among ranks.

    logits[b, v] = (hidden[b] . items[v] + bias[v]) / temperature

Every rank has states of its own, any number of them, and rows of the table of its own. To answer a
question, all states visit all shards, and each state's owner puts the shards' answers together; no
rank ever holds the table, nor ``[*B, V]`` unless ``logits`` is asked for. So every question is
asked by all ranks, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob import reference
from torchrl_drpo_kernels.linear_log_prob.shard import linear_log_prob_shard

from torchrl_drpo.distributed.autograd import exchange_rows, gather_rows, held_alone
from torchrl_drpo.distributed.items import ItemShards
from torchrl_drpo.distributions import _sweeps
from torchrl_drpo.distributions._expectations import expected_score
from torchrl_drpo.distributions._over_items import OverItems
from torchrl_drpo.distributions._parameters import dense, of_one_type
from torchrl_drpo.distributions.catalogue import TopK
from torchrl_drpo.functional.checks import check_positive


class ShardedCatalogueCategorical(OverItems):
    """Categorical over ``V`` items with logits ``(hidden @ items.T + bias) / temperature``.

    The sharded form of :class:`~torchrl_drpo.CatalogueCategorical`: what it says of a state is the
    same within rounding, for any number of ranks.

    Args:
        hidden: this rank's states, ``[*B, D]``; ranks may have different numbers, also none.
        items: this rank's rows of the table, ``[Vr, D]``, of the same type.
        bias: this rank's scores, ``[Vr]``.
        temperature: a positive number.
        shards: which rank holds which items.

    Gradients reach ``hidden``, ``items`` and ``bias`` through ``log_prob``, ``entropy`` and
    ``logits``; those of ``items`` and ``bias`` are means over ranks of what each rank's loss sends,
    as DDP and FSDP2 take them.

    Raises:
        TypeError: for a table that is a DTensor.
        ValueError: for shapes that do not fit each other and the shards.

    Examples:
        >>> from torch import distributed
        >>> from torchrl_drpo.distributed.group import Ranks
        >>> store = distributed.HashStore()  # a group of one rank; torchrun makes larger ones
        >>> distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> shards = ItemShards(Ranks(distributed.group.WORLD), num_items=5)
        >>> items = torch.randn(shards.high - shards.low, 4)
        >>> policy = ShardedCatalogueCategorical(torch.zeros(2, 4), items, shards=shards)
        >>> policy.log_prob(torch.tensor([0, 4])).exp()
        tensor([0.2000, 0.2000])
        >>> distributed.destroy_process_group()
    """

    def __init__(
        self,
        hidden: Tensor,
        items: Tensor,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        *,
        shards: ItemShards,
    ) -> None:
        if hasattr(items, "full_tensor"):
            raise TypeError(
                "items is a DTensor, as of a table that fully_shard was given; a sharded table is "
                "left alone: fully_shard(catalogue_policy(actor).encoder)"
            )
        check_positive("temperature", temperature)
        hidden, items = of_one_type(hidden, items)
        rows = shards.high - shards.low
        if items.ndim != 2 or items.shape != (rows, hidden.shape[-1]):
            raise ValueError(
                f"rank {shards.ranks.rank} holds items {shards.low} to {shards.high}: expected "
                f"items of shape {(rows, hidden.shape[-1])}, got {tuple(items.shape)}"
            )
        if bias is not None and bias.shape != (rows,):
            raise ValueError(f"expected a bias of shape {(rows,)}, got {tuple(bias.shape)}")
        self.hidden, self.items, self.bias = hidden, items, bias
        self.temperature, self.shards = float(temperature), shards
        super().__init__(hidden.shape[:-1], validate_args=False)

    @property
    def num_items(self) -> int:
        """``V``, the size of the catalogue."""
        return self.shards.num_items

    @property
    def logits(self) -> Tensor:
        """Log-probabilities of all items, shape ``[*B, V]``: the one place that builds them."""

        def scores(hidden: Tensor, items: Tensor, bias: Tensor | None, inverse: float) -> Tensor:
            here = reference.scaled_logits(hidden, items, bias, inverse)
            return torch.nn.functional.pad(here, (0, self.shards.length - len(items)))

        parts = self._of_shards(scores)  # [R, N, length]
        whole = parts.transpose(0, 1).flatten(1)[:, : self.num_items]
        return whole.log_softmax(-1).reshape(*self.batch_shape, -1)

    @property
    def probs(self) -> Tensor:
        """Probabilities of all items, shape ``[*B, V]``, built on request."""
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each row, int64, shape ``[*B]``."""
        return self.topk(1).indices.squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of items, in nats, float32 (float64 for float64).

        Args:
            value: item indices in ``[0, V)``, any integer type, shape ``[*sample, *B]``.

        Raises:
            ValueError: an index outside the catalogue, or a shape that does not broadcast.
        """
        if value.is_floating_point() or value.is_complex():
            raise ValueError(f"actions must be integer item indices, got {value.dtype}")
        self.shards.check(value, "actions")
        if value.shape == self.batch_shape:
            return self._log_prob(value.reshape(-1))[0].reshape(self.batch_shape)
        # Several actions a row share the row's normaliser; their rows are looked up.
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        lse = self._log_prob(torch.zeros_like(self._rows[:, 0], dtype=torch.int64))[1]
        table = self.items if self.bias is None else torch.cat([self.items, self.bias[:, None]], 1)
        chosen = self.shards.look_up(table, value.long()).to(lse.dtype)
        width = self.items.shape[1]
        scores = (self.hidden.to(lse.dtype) * chosen[..., :width]).sum(-1)
        if self.bias is not None:
            scores = scores + chosen[..., width]
        return (scores / self.temperature - lse.reshape(self.batch_shape)).reshape(shape)

    def entropy(self) -> Tensor:
        """Entropy of each row in nats, shape ``[*B]``; differentiable."""

        def moments(hidden: Tensor, items: Tensor, bias: Tensor | None, inverse: float) -> Tensor:
            if len(items) == 0:
                zero, lse = self._no_items(hidden)
                return torch.stack([lse, zero], -1)
            return torch.stack(expected_score(hidden, items, bias, inverse), -1)

        lse, moment = self._of_shards(moments).unbind(-1)
        whole = lse.logsumexp(0)
        return (whole - ((lse - whole).exp() * moment).sum(0)).reshape(self.batch_shape)

    @torch.no_grad()
    def topk(self, k: int) -> TopK:
        """The ``k`` likeliest items of each row and their log-probabilities, likeliest first.

        Of equals the one with the lowest number comes first if they lie in different shards.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")

        def best(hidden: Tensor, items: Tensor, bias: Tensor | None, inverse: float) -> Tensor:
            own = min(k, len(items))
            scores, places, lse = _sweeps.best_scores(hidden, items, bias, inverse, k=own)
            scores = torch.nn.functional.pad(scores, (0, k - own), value=-torch.inf)
            places = torch.nn.functional.pad(places + self.shards.low, (0, k - own))
            return torch.cat([lse[:, None].double(), scores.double(), places.double()], 1)

        found = self._of_shards(best)  # an item number is exact in float64
        lse = found[..., 0].logsumexp(0)
        _sweeps.check_scores(lse)
        scores, items = (x.transpose(0, 1).flatten(1) for x in found[..., 1:].split(k, -1))
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        values = (scores.gather(1, order) - lse[:, None]).to(self._dtype)
        shape = (*self.batch_shape, k)
        return TopK(values.reshape(shape), items.gather(1, order).long().reshape(shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws items, int64, shape ``[*sample_shape, *B]``; exact.

        Each shard draws one of its own items, and the row's owner draws the shard: ranks with
        equal generators draw no less independently.
        """
        sample_shape = torch.Size(sample_shape)
        count = sample_shape.numel()

        def drawn(hidden: Tensor, items: Tensor, bias: Tensor | None, inverse: float) -> Tensor:
            if len(items) == 0 or (bias is not None and bool((bias == -torch.inf).all())):
                places = torch.zeros((len(hidden), count), dtype=torch.int64, device=hidden.device)
                lse = torch.full_like(hidden[:, 0], -torch.inf)
            else:
                places = _sweeps.sample(hidden, items, bias, inverse, num_samples=count)
                first = torch.zeros_like(places[:, 0]) if count else places.new_zeros(len(hidden))
                lse = linear_log_prob_shard(hidden, dense(items), first, bias, inverse)[1]
            return torch.cat([lse[:, None].double(), (places + self.shards.low).double()], 1)

        found = self._of_shards(drawn)
        share = (found[..., 0] - found[..., 0].logsumexp(0)).exp().T  # [N, R]
        cumulative = share.cumsum(1)
        uniform = torch.rand((len(share), count), dtype=share.dtype, device=share.device)
        owner = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        owner = owner.clamp_max(self.shards.ranks.size - 1)
        items = found[..., 1:].permute(1, 2, 0).gather(2, owner[..., None]).squeeze(-1).long()
        return items.T.reshape(*sample_shape, *self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ShardedCatalogueCategorical:
        """The same distribution over a larger batch; nothing is copied."""
        hidden = self.hidden.expand(*batch_shape, self.hidden.shape[-1])
        return ShardedCatalogueCategorical(
            hidden, self.items, self.bias, self.temperature, shards=self.shards
        )

    def __repr__(self) -> str:
        here = f"{self.shards.low} to {self.shards.high} of {self.num_items}"
        return f"ShardedCatalogueCategorical(batch_shape: {tuple(self.batch_shape)}, items: {here})"

    # -- all states at all shards ---------------------------------------------------------------

    def _of_shards(self, ask: Callable[..., Tensor]) -> Tensor:
        """What ``ask(hidden, items, bias, 1 / T) -> [N, C]`` of each shard says, ``[R, N, C]``."""
        ranks, own = self.shards.ranks, self._rows
        counts = ranks.counts(len(own), own)
        answers = ask(gather_rows(own, ranks, counts), *self._table, 1 / self.temperature)
        back = exchange_rows(answers, ranks, counts, [len(own)] * ranks.size)
        return back.reshape(ranks.size, len(own), -1)

    def _log_prob(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of one item a row, and the log-normaliser, ``[N]`` each."""
        ranks, own = self.shards.ranks, self._rows
        counts = ranks.counts(len(own), own)
        hidden = gather_rows(own, ranks, counts)
        place = self.shards.place(ranks.gather_rows(action.long(), counts))
        items, bias = self._table
        parts = linear_log_prob_shard(hidden, items, place, bias, 1 / self.temperature)
        back = exchange_rows(torch.stack(parts, -1), ranks, counts, [len(own)] * ranks.size)
        score, lse = back.reshape(ranks.size, len(own), 2).unbind(-1)
        whole = lse.logsumexp(0)
        return score.sum(0) - whole, whole

    @property
    def _table(self) -> tuple[Tensor, Tensor | None]:
        ranks = self.shards.ranks
        bias = None if self.bias is None else held_alone(dense(self.bias), ranks)
        return held_alone(dense(self.items), ranks), bias

    @property
    def _rows(self) -> Tensor:
        return dense(self.hidden.reshape(-1, self.hidden.shape[-1]))

    @property
    def _dtype(self) -> torch.dtype:
        return reference.accumulation_dtype(self.hidden.dtype)

    def _no_items(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Score and normaliser of a shard without items."""
        nowhere = torch.full_like(hidden[:, 0], -1, dtype=torch.int64)
        return linear_log_prob_shard(hidden, self.items, nowhere)
