"""A categorical distribution over a catalogue, given by a state and the items' embeddings.

    logits[b, v] = (hidden[b] . items[v] + bias[v]) / temperature

Nothing here keeps ``[*B, V]`` unless ``logits`` or ``probs`` is asked for: ``log_prob`` is the
kernel's business (on a CPU it keeps scores that fit 32 MiB, which is faster), and sampling,
entropy, divergence and top-k walk the catalogue tile by tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import register_kl
from torchrl_drpo_kernels import DRPOStep, drpo_catalogue_loss
from torchrl_drpo_kernels.linear_log_prob import linear_log_prob, reference

from torchrl_drpo.distributions import _sweeps
from torchrl_drpo.distributions._expectations import expected_score
from torchrl_drpo.distributions._over_items import OverItems
from torchrl_drpo.distributions._parameters import (
    check_parameters,
    dense,
    integers,
    of_one_type,
)
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.sampling import DrawnLists


class TopK(NamedTuple):
    """The k likeliest items of each row, likeliest first."""

    values: Tensor
    """Log-probabilities in nats, shape ``[*B, k]``."""
    indices: Tensor
    """Item indices, int64, shape ``[*B, k]``."""


class CatalogueCategorical(OverItems):
    """Categorical over ``V`` items with logits ``(hidden @ items.T + bias) / temperature``.

    Args:
        hidden: what the policy says about the state, floating, shape ``[*B, D]``.
        items: item embeddings of the same type and width, shape ``[V, D]``; shared by the batch.
        bias: score added to each item before the temperature, shape ``[V]``. ``-inf`` takes an
            item out of the action space.
        temperature: a positive number. A learned one multiplies ``hidden`` and ``bias`` instead.
        validate_args: check the actions given to :meth:`log_prob`. ``None`` checks on the CPU
            only, as elsewhere the check waits for the device; torch's global default, which
            TorchRL turns off, is not looked at. Types and shapes are always checked.

    Gradients reach ``hidden``, ``items`` and ``bias`` through ``log_prob``, ``entropy``,
    ``logits`` and ``kl_divergence``. Half precision is accumulated in float32.

    >>> policy = CatalogueCategorical(torch.zeros(3, 2), torch.randn(5, 2))
    >>> policy.log_prob(torch.tensor([0, 1, 4])).exp()
    tensor([0.2000, 0.2000, 0.2000])
    >>> policy.sample((7,)).shape, policy.topk(2).indices.shape
    (torch.Size([7, 3]), torch.Size([3, 2]))
    """

    has_enumerate_support = True

    def __init__(
        self,
        hidden: Tensor,
        items: Tensor,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        hidden, items = of_one_type(hidden, items)
        check_parameters(hidden, items, bias, temperature)
        self.hidden, self.items = hidden, items
        self.bias = None if bias is None else dense(bias)
        self.temperature = float(temperature)
        super().__init__(hidden.shape[:-1], validate_args=False)
        self._validate_args = validate_args

    @property
    def num_items(self) -> int:
        """``V``, the size of the catalogue."""
        return int(self.items.shape[0])

    @property
    def logits(self) -> Tensor:
        """Log-probabilities of all items, shape ``[*B, V]``: the one place that builds them."""
        scores = reference.scaled_logits(self.hidden, *self._rest)
        return scores.log_softmax(-1)

    @property
    def probs(self) -> Tensor:
        """Probabilities of all items, shape ``[*B, V]``, built on request."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """NaN, as for torch's ``Categorical``: item indices have no order."""
        return self._row.new_full(self.batch_shape, torch.nan)

    @property
    def variance(self) -> Tensor:
        """NaN, as for torch's ``Categorical``."""
        return self.mean

    @property
    def mode(self) -> Tensor:
        """The likeliest item of each row, int64, shape ``[*B]``; the lowest index of equals.

        Raises:
            ValueError: on the CPU, for a row whose scores are not finite (a diverged policy's) or
                whose items are all excluded; so do :meth:`sample` and :meth:`topk`.
        """
        return _sweeps.argmax(self._rows, *self._rest).reshape(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of items.

        Args:
            value: item indices in ``[0, V)``, any integer type, shape ``[*sample, *B]``.

        Returns:
            Nats, float32 (float64 for float64), shape ``[*sample, *B]``.

        Raises:
            ValueError: an index outside the catalogue, or a shape that does not broadcast.
        """
        self._validate_sample(value)
        if value.shape == self.batch_shape:
            return self._fused(value.reshape(-1))[0].reshape(self.batch_shape)
        # Several actions a row share the row's normaliser.
        return self._scores_of(value) - self._log_normaliser().reshape(self.batch_shape)

    def leading_log_prob(self, value: Tensor, n_rows: Tensor) -> Tensor:
        """Log-probability of the first ``n_rows`` rows of a flat batch; the rest costs nothing.

        Args:
            value: item indices in ``[0, V)``, int32 or int64, shape ``[N]``.
            n_rows: one integer on the device; it is not read back.

        Returns:
            Nats, shape ``[N]``; zero behind ``n_rows``.
        """
        rest = n_rows, self.bias, 1 / self.temperature
        return linear_log_prob(dense(self._rows), dense(self.items), integers(value), *rest)[0]

    def drpo_loss(
        self,
        value: Tensor,
        quality: Tensor,
        kappa: Tensor | float,
        mask: Tensor | None = None,
        **rule: Any,
    ) -> DRPOStep:
        """DRPO's step on a flat batch as one op: selection, log-prob of the kept rows, loss.

        Args:
            value: item indices in ``[0, V)``, any integer type, shape ``[N]``.
            quality: what rows are selected by, float32, shape ``[N]``.
            kappa: fraction to keep, a number or a ``[1]`` float32 tensor.
            mask: bool ``[N]``, ``True`` where a row counts.
            **rule: options of ``torchrl_drpo_kernels.select``.
        """
        return drpo_catalogue_loss(
            dense(self._rows), dense(self.items), integers(value), quality, kappa, mask,
            bias=self.bias, inverse_temperature=1 / self.temperature, **rule,
        )  # fmt: skip

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws items, int64, shape ``[*sample_shape, *B]``; exact, and without ``[*B, V]``."""
        sample_shape = torch.Size(sample_shape)
        with torch.no_grad():
            drawn = _sweeps.sample(self._rows, *self._rest, num_samples=sample_shape.numel())
        return drawn.T.reshape(self._extended_shape(sample_shape))

    def entropy(self) -> Tensor:
        """Entropy of each row in nats, shape ``[*B]``; differentiable."""
        lse, moment = expected_score(self._rows, *self._rest)
        return (lse - moment).reshape(self.batch_shape)

    def topk(self, k: int) -> TopK:
        """The ``k`` likeliest items of each row and their log-probabilities, likeliest first.

        Detached: ask :meth:`log_prob` for the gradient of a chosen item.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")
        values, indices = _sweeps.topk(self._rows, *self._rest, k=k)
        shape = (*self.batch_shape, k)
        return TopK(values.reshape(shape), indices.reshape(shape))

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

        Scores of some rows at a time exist as a whole, in float64.

        Args:
            k: length of the lists, in ``[1, V]``.
            temperature: divides all logits once more; above 0.
            top_p: draws from the nucleus, in (0, 1]: the likeliest items that reach this
                probability together, and at least ``k``, so that a list is never short of items
                that it could have had. See :func:`~torchrl_drpo.functional.sampling.nucleus`.
            exclude: item numbers that must not be drawn, int64 ``[E]`` or ``[*B, E]``; those
                outside the catalogue, such as -1, are padding.
            generator: of the draws.

        Returns:
            Items ``[*B, k]`` and log-probabilities of each given those before it.

        Raises:
            ValueError: for numbers out of range, or on the CPU a row without a distribution.

        >>> policy = CatalogueCategorical(torch.zeros(1, 2), torch.randn(5, 2))
        >>> policy.sample_lists(3, exclude=torch.tensor([4])).log_probs.exp()
        tensor([[0.2500, 0.3333, 0.5000]], dtype=torch.float64)
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")
        check_positive("temperature", temperature)
        if exclude is not None and exclude.ndim > 1:
            if exclude.shape[:-1] != self.batch_shape:
                raise ValueError(
                    f"exclude must have shape [E] or {[*self.batch_shape, 'E']}, got "
                    f"{tuple(exclude.shape)}"
                )
            exclude = exclude.reshape(-1, exclude.shape[-1])
        items, bias, inverse_temperature = self._rest
        with torch.no_grad():
            drawn = _sweeps.sample_lists(
                self._rows, items, bias, inverse_temperature / temperature,
                k=k, top_p=top_p, exclude=exclude, generator=generator,
            )  # fmt: skip
        return DrawnLists(*(each.reshape(*self.batch_shape, k) for each in drawn))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All item indices, shape ``[V, *B]``, or ``[V, 1, ...]`` unless ``expand``."""
        every = torch.arange(self.num_items, device=self.hidden.device)
        every = every.view(-1, *(1 for _ in self.batch_shape))
        return every.expand(-1, *self.batch_shape) if expand else every

    def expand(
        self, batch_shape: Any, _instance: CatalogueCategorical | None = None
    ) -> CatalogueCategorical:
        """The same distribution over a larger batch; nothing is copied."""
        new = self._get_checked_instance(CatalogueCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.hidden = self.hidden.expand(*batch_shape, self.hidden.shape[-1])
        new.items, new.bias, new.temperature = self.items, self.bias, self.temperature
        super(CatalogueCategorical, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        shape = tuple(self.batch_shape)
        return (
            f"CatalogueCategorical(batch_shape: {shape}, items: {self.num_items}, "
            f"width: {self.items.shape[1]}, temperature: {self.temperature:g})"
        )

    def _fused(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """``log_prob`` and ``lse`` of one action a row, ``[N]`` each."""
        rest = {"bias": self.bias, "inverse_temperature": 1 / self.temperature}
        return linear_log_prob(dense(self._rows), dense(self.items), integers(action), **rest)

    def _log_normaliser(self) -> Tensor:
        rows = self._rows
        return self._fused(torch.zeros(rows.shape[0], dtype=torch.long, device=rows.device))[1]

    def _scores_of(self, value: Tensor) -> Tensor:
        """Unnormalised scores of given items, shape ``[*sample, *B]``."""
        dtype = reference.accumulation_dtype(self.hidden.dtype)
        chosen = torch.nn.functional.embedding(value.long(), self.items).to(dtype)
        scores = (self.hidden.to(dtype) * chosen).sum(-1)
        if self.bias is not None:
            scores = scores + self.bias.to(dtype)[value.long()]
        return scores / self.temperature

    @property
    def _rows(self) -> Tensor:
        return self.hidden.reshape(-1, self.hidden.shape[-1])

    @property
    def _row(self) -> Tensor:
        return self.hidden.new_empty(0, dtype=reference.accumulation_dtype(self.hidden.dtype))

    @property
    def _rest(self) -> tuple[Tensor, Tensor | None, float]:
        return self.items, self.bias, 1 / self.temperature

    def _validate_sample(self, value: Tensor) -> None:
        self._check_form(value)
        check = self._validate_args
        if check is None:  # the op looks at one action a row by itself
            many = value.shape != self.batch_shape
            check = many and value.device.type == "cpu" and not torch.compiler.is_compiling()
        if check:
            self._check_range(value)


@register_kl(CatalogueCategorical, CatalogueCategorical)
def _kl_divergence(p: CatalogueCategorical, q: CatalogueCategorical) -> Tensor:
    """KL(p || q) in nats over one catalogue, differentiable in both, without ``[*B, V]``."""
    if p.num_items != q.num_items:
        raise ValueError(f"KL needs one catalogue, got {p.num_items} and {q.num_items} items")
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    p, q = p.expand(shape), q.expand(shape)
    lse, gap = expected_score(p._rows, *p._rest, other=(q._rows, *q._rest))
    return (gap - lse + q._log_normaliser()).reshape(shape)
