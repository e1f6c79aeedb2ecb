"""The base of every offline objective here: a rule for the weights, and nothing else.

An offline objective of this package is ``-sum_i w_i log pi(a_i|s_i) / sum_i m_i``. A subclass says
what ``w`` and the mass ``m`` are (:meth:`WeightedLoss._weigh`, from what was logged) and, where
the rule looks at the policy too, how the weights change once the log-probabilities are known
(:meth:`WeightedLoss._reweigh`). This module does the rest: it reads signals and masks, asks the
policy, reduces, and saves the work on rows of weight zero.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.distributed.ranks import world_size
from torchrl_drpo.functional.checks import check_finite
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.reductions import weighted_nll
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._idle import IdleWatch
from torchrl_drpo.objectives._module import ActorLoss
from torchrl_drpo.objectives._policy import distribution_of
from torchrl_drpo.objectives._weighting import Scored, Weighting, WeightingOfRows

if TYPE_CHECKING:
    from torchrl_drpo.distributed.group import Over


class WeightedLoss(ActorLoss):
    """Base LossModule of all objectives that are a rule for the weights.

    Args:
        actor_network: a TorchRL probabilistic actor: ``get_dist(tensordict).log_prob(action)``.

    Keyword Args:
        level: ``"step"`` weighs every step; ``"trajectory"`` weighs whole rows of a ``[B, T]``
            batch: a trajectory's log-probability is the sum over its valid steps, its signal one
            number (``[B]`` or ``[B, 1]``) or the sum of its steps' signals.
        skip_filtered: leave rows of weight zero out of the policy's forward and backward. Done on
            the CPU; on an accelerator, where counting rows would stall the device, and under
            ``torch.compile`` or ``vmap``, every row is computed, with the same loss.
        reduction: ``"mean"`` (or ``None``) divides by the mass that the rule gives the rows,
            ``"sum"`` adds up ``-w log pi``, ``"none"`` returns ``-w log pi`` for each sample.
        functional: keep the actor's parameters in ``actor_network_params`` (TorchRL's default).
            ``False`` leaves the module whole, as FSDP2 needs it (shard the network inside the
            actor, not the actor and not the loss).
        check_inputs: look at the numbers of a batch: signals and sampler weights that no loss can
            hold, a batch that is masked whole and coefficients out of range are errors; weights
            that are all 0 in 20 training steps in a row are warned of once (where nobody looks, a
            ``loss_actor`` of exactly 0 says it). ``None`` does so on the CPU, where it is nearly
            free; ``True`` on an accelerator too, at the price of a synchronisation.
        over: the ranks whose rows are one batch: a ``torch.distributed`` process group, or a
            device mesh for all of its ranks. Thresholds, baselines, standard deviations,
            normalisers, divisors and diagnostics are then those of all rows, and ``loss_actor`` is
            the loss of the whole batch, the same number on every rank; its gradient is R times the
            rank's share, so that the mean over ranks, which DDP and FSDP2 take, is the gradient of
            one process on all rows. Ranks may have unequal numbers of rows, also none; groups
            (``group_key``) lie on one rank. ``None``: this process's rows alone.

    Raises:
        ValueError: for an unknown ``level`` or ``reduction``.

    Note:
        Without ``over``, what a rule takes from the batch (a threshold, a baseline, a standard
        deviation, kappa) it takes from the rows that it is given: in a process group of several
        ranks these are each rank's own, and a warning says so once a process. With it every rank
        must call the loss in every step, with rows or without. ``reduction="none"`` returns each
        rank's own rows.
    """

    out_keys: ClassVar[list[NestedKey]] = ["loss_actor"]

    #: what to do where every row has weight 0
    _idle_advice: str = ""

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        level: str = "step",
        skip_filtered: bool = True,
        reduction: str | None = None,
        functional: bool = True,
        check_inputs: bool | None = None,
        over: Over | None = None,
    ) -> None:
        super().__init__(
            actor_network,
            level=level,
            reduction=reduction,
            functional=functional,
            check_inputs=check_inputs,
            over=over,
        )
        self._backend: str | None = None
        self._idle = IdleWatch()
        self.skip_filtered = skip_filtered

    # -- the rule: what a subclass writes -------------------------------------------------------

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        """Weights from what was logged; ``mask`` is ``True`` where a sample is valid."""
        raise NotImplementedError

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        """Weights after the policy was asked, for the rows that were scored."""
        return weighting

    def _reweighs(self) -> bool:
        """Whether :meth:`_reweigh` has anything to do."""
        return type(self)._reweigh is not WeightedLoss._reweigh

    def _fused(self, tensordict: TensorDictBase, mask: Tensor | None) -> dict[str, Tensor] | None:
        """A faster way to the same outputs where a rule has one, ``None`` where it does not."""
        return None

    # -- the forward pass -----------------------------------------------------------------------

    @property
    def backend(self) -> str | None:
        """Which way the last eager forward pass took.

        ``"dense"``: every row, the reference; ``"rows"``: only rows with weight, counted on the
        host; ``"fused"``: only rows with weight, selected on the device; ``"fused_op"``: every
        row through the policy, and selection, log-prob and loss as one op. ``None`` before the
        first pass.
        """
        return self._backend

    def _took(self, backend: str) -> None:
        # Setting an attribute of a module takes longer than looking whether it has changed.
        if self._backend != backend and not torch.compiler.is_compiling():
            self._backend = backend

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Loss and detached diagnostics of a batch; the batch itself is left as it was.

        Args:
            tensordict: a batch of shape ``[*B]`` with this loss's ``in_keys``.

        Returns:
            A tensordict with ``out_keys``; everything but the ``loss_*`` entries is detached.

        Raises:
            ValueError: for an empty batch, or signals that are non-finite or of another shape.
            KeyError: for an entry that is not there.
            RuntimeError: for networks that FSDP2 would train on unreduced gradients.
        """
        return _batch.assembled(self._outputs(tensordict), torch.Size([]))

    def _outputs(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        """What ``forward`` returns, before a subclass adds the losses of other networks."""
        owner = type(self).__name__
        _checks.check_shape(tensordict, self.level, owner, may_be_empty=self._whole.among_ranks)
        if self._looked_at is not type(self) or world_size() > 1:
            self._look_at_ranks(tensordict)
        steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), tensordict.shape)
        if steps is not None:
            _checks.check_any_valid(steps, self.check_inputs, owner)
        out = self._fused(tensordict, steps)
        if out is not None:
            return out
        with torch.no_grad():
            samples = self._samples(steps)
            weighting = self._weigh(tensordict, samples)
            weighting = self._with_priority(weighting, tensordict, samples)
            weighed = weighting
            if isinstance(weighting, WeightingOfRows):
                rows, total = weighting.rows, weighting.total
            else:
                rows = self._rows_to_score(weighting.weight)
                (total,) = self._whole.sums(weighting.mass.sum())
                weighting = weighting if rows is None else weighting.take(rows)
            if steps is not None and rows is not None:
                steps = steps.index_select(0, rows)
            self._took("dense" if rows is None else "rows")
        inputs = self._inputs(tensordict, rows, steps)
        with self._actor_parameters():
            dist, log_prob = self._log_prob(self.actor_network, inputs, steps)
        if self._reweighs():
            with torch.no_grad():
                action = inputs.get(self.tensor_keys.action)
                scored = Scored(dist, action, log_prob.detach(), steps, inputs, tensordict, rows)
                weighting = self._reweigh(weighting, scored)
        loss = self._reduce_weighted(log_prob, weighting, total)
        if self.reduction != "none":
            loss = self._whole.loss(loss)
        self._look_at_outcome(weighed, weighting, loss)
        report = weighting.report
        out = {"loss_actor": loss, **{key: report[key] for key in self.out_keys if key in report}}
        self._clear_weakrefs(tensordict, "actor_network_params")
        return out

    # -- steps of the forward pass --------------------------------------------------------------

    def _with_priority(
        self, weighting: Weighting, tensordict: TensorDictBase, mask: Tensor | None
    ) -> Weighting:
        if not self._has_priority(tensordict):
            return weighting
        priority = self._priority(tensordict, mask)
        return replace(
            weighting, weight=weighting.weight * priority, mass=weighting.mass * priority
        )

    def _look_at_outcome(self, weighed: Weighting, used: Weighting, loss: Tensor) -> None:
        """An overflowed weight is an error with a row; to learn nothing for long is told of."""
        if not _checks.wants_check(self.check_inputs, loss):
            return
        value = (loss.detach().sum() if loss.ndim else loss).item()
        if value == 0.0 or self._idle.steps:
            idle = value == 0.0 and self.training and not used.weight.any()
            self._idle.count(idle, type(self).__name__, self._idle_advice)
        if not math.isfinite(value):
            weight = weighed.weight
            if isinstance(weighed, WeightingOfRows):  # the error names a row of the batch
                weight = weighed.everywhere(int(weighed.rows.max()) + 1)
            hint = "raise the temperature, cap the weights or rescale the rewards"
            named = f"the weight that {type(self).__name__} gives"
            check_finite(named, weight.to(loss.dtype), hint=hint)

    def _rows_to_score(self, weight: Tensor) -> Tensor | None:
        """Rows (of the first dimension) that the policy must see, or ``None`` for all of them."""
        if not (self.skip_filtered and self.reduction != "none" and reads_are_free(weight)):
            return None
        kept = weight if weight.ndim == 1 else weight.flatten(1).any(1)
        if kept.all():  # the rule of most objectives, and quicker to find than the rows
            return None
        rows = kept.nonzero().squeeze(-1)  # NaN counts as kept
        # One row of weight zero keeps the graph (and its zero gradient) where nothing is kept.
        return rows if rows.numel() else rows.new_zeros(1)

    def _log_prob(
        self,
        network: ProbabilisticTensorDictSequential,
        inputs: TensorDictBase,
        steps: Tensor | None,
    ) -> tuple[Distribution, Tensor]:
        """A policy's distribution, and its log-probability of the logged actions, per sample."""
        action = inputs.get(self.tensor_keys.action)
        dist = distribution_of(network, inputs)
        log_prob = _batch.action_log_prob(dist, action, inputs.shape)
        if self.level == "trajectory":
            if steps is not None:
                log_prob = torch.where(steps, log_prob, log_prob.new_zeros(()))
            log_prob = log_prob.flatten(1).sum(1)
        return dist, log_prob

    def _reduce_weighted(self, log_prob: Tensor, weighting: Weighting, total: Tensor) -> Tensor:
        weight = weighting.weight
        if log_prob.dtype in (torch.float32, torch.float64):  # the loss is of the policy's type
            weight = weight.to(log_prob.dtype)
        if self.reduction == "none":
            return -weight * torch.where(weight != 0, log_prob, 0.0)
        if self.reduction == "mean":
            weight = weight / total.clamp_min(torch.finfo(total.dtype).tiny)  # 0 of 0 is 0
        return weighted_nll(log_prob, weight, reduction="sum")
