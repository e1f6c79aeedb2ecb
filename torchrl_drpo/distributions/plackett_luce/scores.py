"""Where a list's scores come from: candidates that are all there, or a catalogue too large for it.

Both answer the same questions: the scores of given items, the log-sum-exp of all others ("the
rest"), the best items, and items drawn without replacement.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

from torchrl_drpo.distributions import _sweeps
from torchrl_drpo.distributions.catalogue import CatalogueCategorical, TopK
from torchrl_drpo.distributions.plackett_luce.rest import catalogue_rest
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.sampling import draw_lists

#: Where less of the probability is left than this, the rest is summed anew: a subtraction would
#: lose so many of its digits.
LITTLE = 1e-2


class CandidateScores:
    """Scores of a few candidates, ``[*B, C]``, at least float32; -inf where there is none."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    @property
    def batch_shape(self) -> torch.Size:
        """``[*B]``."""
        return self.scores.shape[:-1]

    @property
    def num_items(self) -> int:
        """C."""
        return int(self.scores.shape[-1])

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.scores.device

    def of(self, items: Tensor) -> Tensor:
        """Scores of ``items [*S, *B, k]``."""
        scores = self.scores.expand(*items.shape[:-1], self.num_items)
        return scores.gather(-1, items)

    def rest(self, items: Tensor, taken: Tensor, scores: Tensor) -> Tensor:
        """Log-sum-exp of the candidates that are not among the taken items, ``[*S, *B]``."""
        every = self.scores.expand(*items.shape[:-1], self.num_items)
        gone = torch.zeros(every.shape, device=self.device, dtype=torch.int32)
        gone = gone.scatter_add(-1, items, taken.to(torch.int32)) > 0
        gone = gone | (every == -torch.inf)
        some = ~gone.all(-1)
        left = every.masked_fill(gone, -torch.inf)
        left = torch.where(some.unsqueeze(-1), left, 0.0)  # a sum of nothing has no gradient
        return left.logsumexp(-1).masked_fill(~some, -torch.inf)

    def topk(self, k: int) -> TopK:
        """Log-probabilities of the first place, and the candidates."""
        found = self.scores.detach().log_softmax(-1).topk(k)
        return TopK(found.values, found.indices)

    def best(self, k: int) -> Tensor:
        """The k best candidates, -1 where there are fewer, ``[*B, k]``."""
        found = self.scores.detach().topk(k)
        _sweeps.check_scores(found.values[..., 0].reshape(-1))
        return found.indices.masked_fill(found.values == -torch.inf, -1)

    def draw(self, k: int, count: int) -> Tensor:
        """``count`` draws of k candidates each, ``[count, *B, k]``."""
        scores = self.scores.detach()
        _sweeps.check_scores(scores.amax(-1).reshape(-1))
        return draw_lists(scores.expand(count, *scores.shape), k).indices

    def expand(self, batch_shape: torch.Size) -> CandidateScores:
        """The same over a larger batch."""
        return CandidateScores(self.scores.expand(*batch_shape, self.num_items))


class CatalogueScores:
    """Scores of a catalogue's items under a policy; ``[*B, V]`` never exists."""

    def __init__(self, policy: CatalogueCategorical) -> None:
        self.policy = policy

    @property
    def batch_shape(self) -> torch.Size:
        """``[*B]``."""
        return self.policy.batch_shape

    @property
    def num_items(self) -> int:
        """V."""
        return self.policy.num_items

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.policy.hidden.device

    def of(self, items: Tensor) -> Tensor:
        """Scores of ``items [*S, *B, k]``."""
        policy = self.policy
        dtype = accumulation_dtype(policy.hidden.dtype)
        chosen = torch.nn.functional.embedding(items, policy.items).to(dtype)
        scores = (policy.hidden.to(dtype).unsqueeze(-2) * chosen).sum(-1)
        if policy.bias is not None:
            scores = scores + policy.bias.to(dtype)[items]
        return scores / policy.temperature

    def rest(self, items: Tensor, taken: Tensor, scores: Tensor) -> Tensor:
        """Log-sum-exp of all items but those taken, ``[*S, *B]``.

        The whole sum is the op's; what is taken is subtracted. Where little is left, the rest is
        summed tile by tile instead, as far as reading which rows these are is free; elsewhere
        (accelerators, compiled code) a millionth is left at least.
        """
        policy = self.policy
        whole = policy._log_normaliser().reshape(policy.batch_shape)
        none = torch.full_like(scores, -torch.inf)
        share = torch.where(taken, scores - whole.unsqueeze(-1), none).exp().sum(-1)
        if not reads_are_free(share):
            return whole + torch.log1p(-share.clamp_max(1 - 1e-6))
        scarce = ~(share < 1 - LITTLE)  # NaN too: a diverged policy's
        rest = whole + torch.log1p(-share.masked_fill(scarce, 0.0))
        if not scarce.any():
            return rest
        shape = scarce.shape
        which = scarce.reshape(-1).nonzero().squeeze(-1)
        row = torch.arange(policy.batch_shape.numel()).reshape(policy.batch_shape)
        row = row.expand(shape).reshape(-1)[which]
        gone = items.masked_fill(~taken, -1).reshape(-1, items.shape[-1])[which]
        exact = catalogue_rest(policy._rows[row], *policy._rest, gone)
        return rest.reshape(-1).index_copy(0, which, exact).reshape(shape)

    def topk(self, k: int) -> TopK:
        """Log-probabilities of the first place, and the items."""
        return self.policy.topk(k)

    def best(self, k: int) -> Tensor:
        """The k best items, -1 where fewer are in the action space, ``[*B, k]``."""
        policy = self.policy
        values, indices, lse = _sweeps.best_scores(policy._rows, *policy._rest, k=k)
        _sweeps.check_scores(lse)
        return indices.masked_fill(values == -torch.inf, -1).reshape(*self.batch_shape, k)

    def draw(self, k: int, count: int) -> Tensor:
        """``count`` draws of k items each, ``[count, *B, k]``: the best after Gumbel noise."""
        policy = self.policy
        drawn = [
            _sweeps.draw_in_order(policy._rows, *policy._rest, k=k).reshape(*self.batch_shape, k)
            for _ in range(count)
        ]
        shape = (count, *self.batch_shape, k)
        if not drawn:
            return torch.empty(shape, dtype=torch.long, device=self.device)
        return torch.stack(drawn)

    def expand(self, batch_shape: torch.Size) -> CatalogueScores:
        """The same over a larger batch; nothing is copied."""
        return CatalogueScores(self.policy.expand(batch_shape))
