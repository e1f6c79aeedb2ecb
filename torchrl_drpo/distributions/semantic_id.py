"""A distribution over semantic IDs: an item is a short sequence of codes, one a level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torchrl_drpo_kernels import DRPOStep, drpo_gather_loss, gather_log_prob

from torchrl_drpo.distributions._sweeps import check_scores


class SemanticIDCategorical(Distribution):
    """Sequences of ``T`` codes out of ``C``, given the logits of every level.

        log p(a) = sum_t mask[t] * log softmax(logits[t])[a[t]]

    The logits come from a factorised head, or from an autoregressive decoder that was fed the
    codes which are then scored (teacher forcing). In the second case :meth:`log_prob` and
    :meth:`token_log_prob` are exact for those codes, while samples, the mode and the entropy are
    those of the levels taken one by one: generate with the decoder instead.

    With ``codes`` the distribution knows the catalogue. **Collisions**: quantisers give some
    items the same codes (31 of 3,686 in a public Amazon index), and no distribution over codes
    can tell them apart. :meth:`log_prob` is that of the code; :meth:`item_log_prob` shares it
    equally among the items that carry it. Codes that no item carries keep their probability, so
    item probabilities add up to less than one.

    Args:
        logits: floating, shape ``[*B, T, C]``. ``-inf`` excludes a code.
        mask: bool, shape ``[*B, T]``, ``True`` where a level counts (codes of several lengths);
            the rest may hold anything and is sampled as 0. ``None``: all count.
        codes: codes of each item, integers in ``[0, C)``, shape ``[V, T]``.
        validate_args: check the codes given to :meth:`log_prob`. ``None`` checks on the CPU
            only, as elsewhere the check waits for the device; torch's global default, which
            TorchRL turns off, is not looked at.

    >>> policy = SemanticIDCategorical(torch.zeros(2, 3, 4))
    >>> policy.log_prob(torch.tensor([[0, 1, 2], [3, 3, 3]])).exp()
    tensor([0.0156, 0.0156])
    >>> policy.event_shape, policy.sample((5,)).shape
    (torch.Size([3]), torch.Size([5, 2, 3]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's contract)

    def __init__(
        self,
        logits: Tensor,
        mask: Tensor | None = None,
        codes: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        _check_parameters(logits, mask, codes)
        # The kernel wants the codes of a level side by side; logits nearly always lie that way.
        self._scores = logits if logits.stride(-1) == 1 else logits.contiguous()
        self.mask, self.codes = mask, codes
        if validate_args is None:
            validate_args = logits.device.type == "cpu" and not torch.compiler.is_compiling()
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=False)
        self._validate_args = validate_args
        if validate_args and codes is not None:
            self._check_range("codes", codes)

    @property
    def num_codes(self) -> int:
        """``C``, the number of codes of a level."""
        return int(self._scores.shape[-1])

    @property
    def num_choices(self) -> Tensor:
        """Levels that count, int64, shape ``[*B]``: an action is so many choices."""
        if self.mask is not None:
            return self.mask.sum(-1)
        levels = self.event_shape[0]
        return torch.full(self.batch_shape, levels, device=self._scores.device)

    @property
    def support(self) -> constraints.Constraint:
        """Sequences of ``T`` integers in ``[0, C)``."""
        return constraints.independent(constraints.integer_interval(0, self.num_codes - 1), 1)

    @property
    def logits(self) -> Tensor:
        """Log-probabilities of every code of every level, ``[*B, T, C]``, at least float32."""
        dtype = torch.promote_types(self._scores.dtype, torch.float32)
        return self._scores.log_softmax(-1, dtype=dtype)

    @property
    def probs(self) -> Tensor:
        """Probabilities of every code of every level, shape ``[*B, T, C]``."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """NaN, as for torch's ``Categorical``: codes have no order."""
        dtype = torch.promote_types(self._scores.dtype, torch.float32)
        shape = self._extended_shape()
        return torch.full(shape, torch.nan, dtype=dtype, device=self._scores.device)

    @property
    def variance(self) -> Tensor:
        """NaN, as for torch's ``Categorical``."""
        return self.mean

    @property
    def mode(self) -> Tensor:
        """The likeliest code of each level, int64, shape ``[*B, T]``; 0 where masked.

        Raises:
            ValueError: on the CPU, for a level that counts whose logits make no distribution (a
                diverged policy's); so does :meth:`sample`.
        """
        best, code = self._scores.detach().max(-1)
        self._check_scores(best)
        return self._masked(code)

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode: what TorchRL takes for ``InteractionType.DETERMINISTIC``."""
        return self.mode

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of code sequences.

        Args:
            value: codes in ``[0, C)``, any integer type, shape ``[*sample, *B, T]``.

        Returns:
            Nats, float32 (float64 for float64), shape ``[*sample, *B]``.

        Raises:
            ValueError: a code outside ``[0, C)`` at a level that counts, or another shape.
        """
        value, logits, mask = self._aligned(value)
        steps, size = logits.shape[-2:]
        flat = gather_log_prob(
            logits.reshape(-1, steps, size),
            value.reshape(-1, steps).contiguous(),
            None if mask is None else mask.reshape(-1, steps).contiguous(),
        )
        return flat.reshape(value.shape[:-1])

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
            value: codes in ``[0, C)``, any integer type, shape ``[N, T]``.
            quality: what rows are selected by, float32, shape ``[N]``.
            kappa: fraction to keep, a number or a ``[1]`` float32 tensor.
            mask: bool ``[N]``, ``True`` where a row counts.
            **rule: options of ``torchrl_drpo_kernels.select``.
        """
        levels = None if self.mask is None else self.mask.contiguous()
        codes = value.long().contiguous()
        return drpo_gather_loss(
            self._scores, codes, quality, kappa, mask, token_mask=levels, **rule
        )

    def token_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each code, shape ``[*sample, *B, T]``; 0 where masked.

        Minus its mean over the levels that count is the surprisal that tapers look at.
        """
        value, logits, mask = self._aligned(value)
        if mask is not None:
            value = torch.where(mask, value, 0)
        flat = gather_log_prob(logits.reshape(-1, logits.shape[-1]), value.reshape(-1))
        found = flat.reshape(value.shape)
        return found if mask is None else torch.where(mask, found, 0)

    def item_log_prob(self, item: Tensor) -> Tensor:
        """Log-probability of catalogue items: their code's, shared among all that carry it.

        Args:
            item: indices in ``[0, V)``, shape ``[*sample, *B]``.

        Raises:
            ValueError: the distribution was made without ``codes``.
        """
        shared = self.collisions[item]
        return self.log_prob(self.codes[item]) - shared.to(self.mean.dtype).log()

    @property
    def collisions(self) -> Tensor:
        """Number of items, itself included, that carry each item's codes, int64, shape ``[V]``."""
        if self.codes is None:
            raise ValueError("items are unknown: give SemanticIDCategorical the items' codes")
        _, which, count = self.codes.unique(dim=0, return_inverse=True, return_counts=True)
        return count[which]

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws every level by itself, int64, shape ``[*sample_shape, *B, T]``; 0 where masked."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            self._check_scores(self._scores.detach().amax(-1))
            flat = self.probs.reshape(-1, self.num_codes)
            if self.mask is not None:  # a masked level may hold NaN
                flat = torch.where(self.mask.reshape(-1, 1), flat, 1.0)
            count = torch.Size(sample_shape).numel()
            drawn = flat.multinomial(count, replacement=True) if flat.numel() * count else flat
            return self._masked(drawn.long().T.reshape(shape))

    def entropy(self) -> Tensor:
        """Sum of the levels' entropies in nats, shape ``[*B]``; that of a factorised head."""
        logits = self.logits
        each = -(logits.exp() * logits.masked_fill(logits == -torch.inf, 0.0)).sum(-1)
        return (each if self.mask is None else torch.where(self.mask, each, 0)).sum(-1)

    def expand(
        self, batch_shape: Any, _instance: SemanticIDCategorical | None = None
    ) -> SemanticIDCategorical:
        """The same distribution over a larger batch; nothing is copied."""
        new = self._get_checked_instance(SemanticIDCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new._scores = self._scores.expand(*batch_shape, *self._scores.shape[-2:])
        new.mask = None if self.mask is None else self.mask.expand(*batch_shape, *self.event_shape)
        new.codes = self.codes
        super(SemanticIDCategorical, new).__init__(
            batch_shape, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        return (
            f"SemanticIDCategorical(batch_shape: {tuple(self.batch_shape)}, "
            f"levels: {self.event_shape[0]}, codes: {self.num_codes})"
        )

    def _check_scores(self, best: Tensor) -> None:
        """Raises where the best logit of a level that counts is NaN or infinite."""
        check_scores(self._masked(best).reshape(-1, *self.event_shape))

    def _masked(self, value: Tensor) -> Tensor:
        return value if self.mask is None else torch.where(self.mask, value, 0)

    def _aligned(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes, logits and mask of one shape, int64 codes, checked where that is wanted."""
        if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"actions must be integer codes, got {kind}")
        try:
            shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        except RuntimeError:
            shape = torch.Size()
        if shape[-1:] != self.event_shape or value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"actions must have shape [*sample, *{tuple(self.batch_shape)}, "
                f"{self.event_shape[0]}], got {tuple(value.shape)}"
            )
        value = value.long().expand(shape)
        mask = None if self.mask is None else self.mask.expand(shape)
        if self._validate_args:
            self._check_range("actions", value if mask is None else torch.where(mask, value, 0))
        return value, self._scores.expand(*shape, self.num_codes), mask

    def _check_range(self, name: str, value: Tensor) -> None:
        bad = (value < 0) | (value >= self.num_codes)
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name} must lie in [0, {self.num_codes}) but entry {where} holds "
                f"{value[where].item()}; codes are counted from 0 within each level"
            )


def _check_parameters(logits: Tensor, mask: Tensor | None, codes: Tensor | None) -> None:
    if logits.ndim < 2 or not logits.is_floating_point() or 0 in logits.shape[-2:]:
        raise ValueError(
            f"logits must be floating, shape [*B, T, C] with T and C above 0, got {logits.dtype} "
            f"{tuple(logits.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != logits.shape[:-1]):
        raise ValueError(
            f"mask must be bool of shape {tuple(logits.shape[:-1])}, got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )
    if codes is not None and (codes.ndim != 2 or codes.shape[1] != logits.shape[-2]):
        raise ValueError(
            f"codes must have shape [V, {logits.shape[-2]}], one code a level, got "
            f"{tuple(codes.shape)}"
        )
