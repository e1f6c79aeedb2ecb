"""A categorical over a catalogue whose items are reached code by code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.distributions._over_items import OverItems
from torchrl_drpo.distributions._sweeps import check_scores
from torchrl_drpo.distributions.code_trie import draws, search, walk
from torchrl_drpo.distributions.code_trie.decoder import CodeDecoder
from torchrl_drpo.distributions.code_trie.search import Excluded, SearchedTopK
from torchrl_drpo.distributions.code_trie.trie import CodeTrie
from torchrl_drpo.distributions.code_trie.walk import CodePolicy
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.sampling import DrawnLists

#: Inner nodes of a trie up to which ``topk`` and ``entropy`` are exact unless told otherwise.
EXACT_NODES = 4096
#: Prefixes that a search keeps at least, unless told otherwise.
USUAL_BEAM = 64


def usual_beam(trie: CodeTrie, k: int) -> int:
    """The beam of lists of ``k`` items unless one is asked for; 0 is all prefixes, exactly."""
    return 0 if trie.num_inner_nodes <= EXACT_NODES else max(4 * k, USUAL_BEAM)


class TrieCategorical(OverItems):
    r"""Categorical over ``V`` items, factored along their semantic IDs.

    .. math:: \log\pi(v | s) = \sum_{t=1}^{T} \log\mathrm{softmax}_{c \in \text{legal}(c_{<t})}
        \big(f(s, c_{<t})\big)_{c_t} + \log\mathrm{softmax}_{u : \text{codes}(u) =
        \text{codes}(v)} (b)_v

    The event is an item, not its codes: losses, evaluation and logs are the same as with any other
    policy over items. Every code is normalised over its legal siblings, so that the probabilities
    of the items add up to one, draws never leave the catalogue and their propensities are exact.
    The items that share a semantic ID are told apart by their biases.

    Args:
        hidden: what the policy says about the state, floating, ``[*B, D]``.
        decoder: scores the codes of a level behind a prefix,
            :class:`~torchrl_drpo.distributions.code_trie.CodeDecoder`.
        trie: the semantic IDs.
        bias: one logit an item among those of its semantic ID, ``[V]``; ``None``: all alike.
        temperature: a positive number that divides all logits.
        validate_args: check the actions given to :meth:`log_prob`; ``None`` checks on the CPU
            only, as elsewhere the check waits for the device. Types and shapes are always checked.

    Example:
        >>> from torchrl_drpo.policies.semantic_id import ParallelDecoder
        >>> trie = CodeTrie(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 0]]))
        >>> policy = TrieCategorical(torch.zeros(2, 8), ParallelDecoder(trie.sizes, 8), trie)
        >>> policy.log_prob(torch.tensor([0, 3])).exp()
        tensor([0.2500, 0.2500], grad_fn=<ExpBackward0>)
        >>> policy.topk(3).indices.shape, policy.sample((5,)).shape
        (torch.Size([2, 3]), torch.Size([5, 2]))
    """

    has_enumerate_support = True

    def __init__(
        self,
        hidden: Tensor,
        decoder: CodeDecoder,
        trie: CodeTrie,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        _check(hidden, trie, bias, temperature)
        self.hidden, self.decoder, self.trie, self.bias = hidden, decoder, trie, bias
        self.temperature = float(temperature)
        super().__init__(hidden.shape[:-1], validate_args=False)
        self._validate_args = validate_args

    @property
    def num_items(self) -> int:
        """``V``, the size of the catalogue."""
        return self.trie.num_items

    @property
    def num_choices(self) -> int:
        """Codes that choose an item: its surprisal is a sum of so many."""
        return self.trie.num_levels

    @property
    def logits(self) -> Tensor:
        """Log-probabilities of all items, ``[*B, V]``, differentiable: every prefix is asked.

        For catalogues of some thousands of prefixes; the decoder's memory of each is held at once.
        -inf of items that a restricted trie leaves out.
        """
        place = self.trie.place_of
        found = search.place_log_probs(self._policy, self._rows)[:, place.clamp(min=0).long()]
        found = found.masked_fill(place < 0, -torch.inf)
        return found.reshape(*self.batch_shape, self.num_items)

    @property
    def probs(self) -> Tensor:
        """Probabilities of all items, ``[*B, V]``; see :attr:`logits`."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """NaN, as for torch's ``Categorical``: item numbers have no order."""
        dtype = torch.promote_types(self.hidden.dtype, torch.float32)
        return self.hidden.new_full(self.batch_shape, torch.nan, dtype=dtype)

    @property
    def variance(self) -> Tensor:
        """NaN, as for torch's ``Categorical``."""
        return self.mean

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each row, int64 ``[*B]``: the first of :meth:`topk`."""
        return self.topk(1).indices.squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of items in nats.

        Args:
            value: item numbers in ``[0, V)``, any integer type, ``[*sample, *B]``.

        Returns:
            float32 (float64 for float64), ``[*sample, *B]``.

        Raises:
            ValueError: an index outside the catalogue, or a shape that does not broadcast.
        """
        return self.code_log_prob(value).sum(-1)

    def code_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each code of items behind the ones before it.

        Args:
            value: as for :meth:`log_prob`.

        Returns:
            ``[*sample, *B, T + 1]``; the last entry is the item's among those of its semantic ID.
        """
        self._check_form(value)
        if self._validate_args or (
            self._validate_args is None
            and value.device.type == "cpu"
            and not torch.compiler.is_compiling()
        ):
            self._check_range(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        hidden = self.hidden.expand(*shape, self.hidden.shape[-1])
        flat = value.long().expand(shape).reshape(-1)
        found = walk.code_log_probs(self._policy, hidden.reshape(-1, hidden.shape[-1]), flat)
        if len(self.trie.item_at) < self.num_items:
            found = found.masked_fill((self.trie.place_of[flat] < 0).unsqueeze(-1), -torch.inf)
        return found.reshape(*shape, found.shape[-1])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws items, int64 ``[*sample_shape, *B]``: code by code, never outside the catalogue.

        Raises:
            ValueError: on the CPU, for a row whose logits are not finite (a diverged policy's).
        """
        sample_shape = torch.Size(sample_shape)
        drawn = walk.sample(self._policy, self._rows, sample_shape.numel())
        return drawn.T.reshape(self._extended_shape(sample_shape))

    def topk(
        self, k: int, *, beam: int | None = None, exclude: Tensor | None = None
    ) -> SearchedTopK:
        """The ``k`` likeliest items of each row, likeliest first; detached.

        Args:
            k: length of the lists, in ``[1, V]``.
            beam: prefixes kept from each level to the next, at least ``k``. By default all of
                them, which is exact, in a trie of at most ``EXACT_NODES`` inner nodes, and in a
                larger one four times ``k``, at least ``USUAL_BEAM``; 0 is exact in any.
            exclude: item numbers that must not come back, int64 ``[E]`` (for all rows) or
                ``[*B, E]``; those outside the catalogue, such as -1, are padding. They take no
                place in the beam.

        Returns:
            The lists, and how likely an item can be that the search has missed.

        Raises:
            ValueError: for numbers out of range, or on the CPU a row whose logits are not finite.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")
        if beam is None:
            beam = usual_beam(self.trie, k)
        if beam and beam < k:
            raise ValueError(f"beam must be at least k = {k}, or 0 for all prefixes, got {beam}")
        excluded = None if exclude is None else Excluded(self.trie, self._rows_of(exclude))
        if beam:
            found = search.beam_search(self._policy, self._rows, k, beam, excluded)
        else:
            found = search.exact_search(self._policy, self._rows, k, excluded)
        _check_found(found.values)
        values, indices = (each.reshape(*self.batch_shape, k) for each in found[:2])
        return SearchedTopK(values, indices, found.pruned.reshape(self.batch_shape))

    def sample_lists(
        self,
        k: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        exclude: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DrawnLists:
        """Draws ``k`` different items a row, with the true propensity of each; detached.

        Temperature and nucleus are those of **every step of the walk**: of the choice of each code
        among those that still lead to an item, and of the item among those of its semantic ID. So
        with either of them the law is another one than tempering or cutting the probabilities of
        whole items, and the propensities are its own, exactly.

        Args:
            k: length of the lists, in ``[1, V]``.
            temperature: divides all logits once more; above 0.
            top_p: in (0, 1]; see :func:`~torchrl_drpo.functional.sampling.nucleus`.
            exclude: as for :meth:`topk`.
            generator: of the draws.

        Returns:
            Items ``[*B, k]`` and log-probabilities of each given those before it.

        Raises:
            ValueError: for numbers out of range, or on the CPU a row whose logits are not finite.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")
        check_positive("temperature", temperature)
        rows = None if exclude is None else self._rows_of(exclude)
        policy = self._policy
        policy = policy._replace(inverse_temperature=policy.inverse_temperature / temperature)
        options = {"top_p": top_p, "exclude": rows, "generator": generator}
        drawn = draws.sample_lists(policy, self._rows, k, **options)
        _check_found(drawn.log_probs)
        return DrawnLists(*(each.reshape(*self.batch_shape, k) for each in drawn))

    @torch.no_grad()
    def entropy(self, num_samples: int = 64) -> Tensor:
        r"""Entropy of each row in nats, ``[*B]``, detached.

        Exact in a trie of at most ``EXACT_NODES`` inner nodes. **Estimated** in a larger one:
        :math:`-\frac{1}{S} \sum_s \log\pi(v_s)` over ``num_samples`` draws of the policy itself.
        """
        if self.trie.num_inner_nodes <= EXACT_NODES:
            logits = self.logits
            return -(logits.exp() * logits.masked_fill(logits == -torch.inf, 0.0)).sum(-1)
        return -self.log_prob(self.sample((num_samples,))).mean(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All item numbers, ``[V, *B]``, or ``[V, 1, ...]`` unless ``expand``."""
        every = torch.arange(self.num_items, device=self.hidden.device)
        every = every.view(-1, *(1 for _ in self.batch_shape))
        return every.expand(-1, *self.batch_shape) if expand else every

    def expand(self, batch_shape: Any, _instance: Any = None) -> TrieCategorical:
        """The same distribution over a larger batch; nothing is copied."""
        hidden = self.hidden.expand(*torch.Size(batch_shape), self.hidden.shape[-1])
        return TrieCategorical(
            hidden, self.decoder, self.trie, self.bias, self.temperature, self._validate_args
        )

    def __repr__(self) -> str:
        return (
            f"TrieCategorical(batch_shape: {tuple(self.batch_shape)}, items: {self.num_items}, "
            f"levels: {self.trie.sizes}, temperature: {self.temperature:g})"
        )

    @property
    def _policy(self) -> CodePolicy:
        return CodePolicy(self.decoder, self.trie, self.bias, 1 / self.temperature)

    @property
    def _rows(self) -> Tensor:
        return self.hidden.reshape(-1, self.hidden.shape[-1])

    def _rows_of(self, exclude: Tensor) -> Tensor:
        if exclude.ndim == 1:
            return exclude
        if exclude.shape[:-1] != self.batch_shape:
            raise ValueError(
                f"exclude must have shape [E] or {[*self.batch_shape, 'E']}, got "
                f"{tuple(exclude.shape)}"
            )
        return exclude.reshape(-1, exclude.shape[-1])


def _check_found(log_probs: Tensor) -> None:
    """Raises for a row whose best item has no log-probability; -inf is a list that ran out."""
    best = log_probs[:, 0]
    check_scores(best.masked_fill(best == -torch.inf, 0.0))


def _check(hidden: Tensor, trie: CodeTrie, bias: Tensor | None, temperature: float) -> None:
    if hidden.ndim < 1 or not hidden.is_floating_point():
        raise ValueError(
            f"hidden must be floating, [*B, D], got {hidden.dtype} {tuple(hidden.shape)}"
        )
    if not trie.has_codes:
        raise ValueError("the trie has no codes yet: load them from a state dict first")
    if bias is not None and bias.shape != (trie.num_items,):
        raise ValueError(
            f"bias must have one entry an item, shape ({trie.num_items},), got {tuple(bias.shape)}"
        )
    if isinstance(temperature, Tensor) or not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}")
