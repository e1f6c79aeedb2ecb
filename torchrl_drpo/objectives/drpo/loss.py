"""DRPO: learn from the best fraction of the log, and let the data move that fraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive
from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.selection import Ties, TopSelection, best_rows
from torchrl_drpo.objectives import _checks
from torchrl_drpo.objectives._remoteness import RemotenessKind
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.drpo.ceiling import KappaCeiling
from torchrl_drpo.objectives.drpo.negative import REPORT, NegativeBranch, report_of
from torchrl_drpo.objectives.drpo.on_device import SelectionOnDevice
from torchrl_drpo.objectives.drpo.weights import numbers_of_a_batch, weigh_all, weigh_kept
from torchrl_drpo.objectives.weighted import WeightedLoss

DRPOWeighting = Literal["linear", "uniform", "exponential", "kl"]


class DRPOLoss(SelectionOnDevice):
    r"""Optimistic distributionally robust policy optimisation.

    Keeps the K = kappa N rows of a batch with the best quality R and imitates them:

    .. math:: L = -\frac1K \sum_{i \in \text{top } K} w_i \log\pi(a_i|s_i)

    ============== ======================================================== ====================
    ``weighting``  :math:`w_i`                                              source
    ============== ======================================================== ====================
    linear         :math:`(R_i - \nu) / (\operatorname{std}_K(R) + \epsilon)`   the paper's DRPO
    uniform        1: the exact solution of the DRO problem                 Adaptive BC
    exponential    :math:`\exp((R_i - \bar R_K) / \text{temperature})`      DRPO-Exp
    kl             :math:`\min(1/\kappa, \exp((R_i - \lambda)/\text{temperature}))` on all N rows,
                   divided by N: the exact solution with a KL penalty
    ============== ======================================================== ====================

    Source: arXiv 2602.10430, sec. 4 and algorithm box. nu is the K-th best quality of the batch.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        kappa: fraction to keep: a number in (0, 1], or an
            :class:`~torchrl_drpo.functional.controllers.AdaptiveKappa` that moves it after each
            forward pass in training mode (not under a vmap over batches, which has no one next
            kappa: ``loss.eval()`` keeps it). Lives in the buffer ``kappa``: it follows the
            module's device, is saved with it, and ``loss.kappa = 0.1`` sets it.
        weighting: see the table.
        temperature: of ``"exponential"`` and ``"kl"``, in units of the quality, above 0.
        ties: who fills the last places among equals at the threshold: ``"fraction"`` shares them,
            ``"first"`` takes the lowest row index first.
        group_key: entry with integer ids (user, context, ...): the quota is then filled within
            each group and nu is the group's. ``None`` selects over the batch.
        normalize: divide linear weights by the standard deviation of the kept quality, so that
            the loss does not scale with the rewards.
        negative_taper: ``taper(D) -> w`` in [0, 1], such as
            :class:`~torchrl_drpo.functional.tapers.ExponentialTaper`: the rejected rows then
            repel, the less the further they lie from the policy (D as in
            :class:`~torchrl_drpo.objectives.repulsive.RepulsiveLoss`). ``None``: they are dropped.
        negative_key: entry of booleans, ``True`` for an explicit dislike: only these rows repel,
            with weight -1 (tapered, if there is a taper), and none of them fills the quota.
        negative_scale: one factor on all repulsion, at least 0.
        remoteness: ``"auto"`` or ``"per_dimension"``; see ``RepulsiveLoss``.
        path: ``"auto"`` selects on the device on CUDA (``"fused"``: no synchronisation, and the
            policy sees the kept rows only) and reads the count of kept rows on the CPU;
            ``"reference"`` and ``"fused"`` force one way. Where the policy cannot be spared any
            row (``ties="fraction"`` without linear weights, compiled or captured steps and those
            on a side stream before a capture, kappa 1), everything behind it is one op.
            ``loss.backend`` says which way was taken.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``kappa`` (used by this step), ``threshold`` (nu;
        with groups its mean over the kept rows), ``kept_fraction`` (K / N),
        ``effective_sample_size`` (of the kept rows) and ``kept_mean_quality``. With a negative
        branch also ``negative_mass_ratio`` (repulsive over attractive mass),
        ``effective_negative_mass_ratio`` (after the taper) and ``taper_active_fraction``.

    Raises:
        ValueError: for a kappa outside (0, 1], given, assigned or loaded, a non-positive
            temperature, an unknown name.

    Note:
        The negative branch is off by default. A rejected row weighs -1, or (R - nu) / std(R)
        under ``"linear"``, std over the batch; the sum is divided by K all the same. What is
        known: useful negatives help while their effective mass ratio stays below 1, and then
        hurt; in most published tests no single taper strength beat leaving negatives out.
        Compare with the default, and watch the active fraction: a taper that is active nowhere
        is no taper.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import DRPOLoss, ExponentialTaper, make_gaussian_actor
        >>> actor = make_gaussian_actor(state_dim=10, action_dim=4)
        >>> loss = DRPOLoss(actor, kappa=0.25)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.arange(8.0).unsqueeze(-1)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> out = loss(batch)
        >>> out["loss_actor"].backward()
        >>> out["threshold"], out["kept_fraction"]
        (tensor(6.), tensor(0.2500))

        OneRec-V2's recipe (arXiv 2508.20900): the top quarter attracts, explicit dislikes repel
        under control, everything else is dropped.

        >>> onerec = DRPOLoss(
        ...     actor,
        ...     kappa=0.25,
        ...     weighting="uniform",
        ...     negative_key="dislike",
        ...     negative_taper=ExponentialTaper(threshold=4.0),
        ... )
        >>> out = onerec(batch.set("dislike", torch.arange(8) == 7))
        >>> out["threshold"], out["negative_mass_ratio"]  # row 7 is out; 5 and 6 are kept
        (tensor(5.), tensor(0.5000))
    """

    @dataclass
    class _AcceptedKeys(WeightedLoss._AcceptedKeys):
        """Entries of the batch.

        Attributes:
            quality: the quality signal R, ``[*B]`` or ``[*B, 1]``: a reward, a return-to-go, a
                percentile of watch time, a critic's Q.
        """

        quality: NestedKey = ("next", "reward")

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    kappa: Tensor
    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "kappa",
        "threshold",
        "kept_fraction",
        "effective_sample_size",
        "kept_mean_quality",
    ]
    _signal_keys = ("quality",)
    _schedulable_buffers = frozenset({"kappa"})
    _coefficients: ClassVar = {"kappa": check_fraction}

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        kappa: AdaptiveKappa | float | None = None,
        weighting: DRPOWeighting = "linear",
        temperature: float = 0.05,
        ties: Ties = "fraction",
        group_key: NestedKey | None = None,
        normalize: bool = True,
        negative_taper: Callable[[Tensor], Tensor] | None = None,
        negative_key: NestedKey | None = None,
        negative_scale: float = 1.0,
        remoteness: RemotenessKind = "auto",
        path: Literal["auto", "reference", "fused"] = "auto",
        **options: Any,
    ) -> None:
        if kappa is None:
            kappa = AdaptiveKappa()
        controller = kappa if isinstance(kappa, AdaptiveKappa) else None
        initial = controller.initial if controller else kappa
        check_fraction("kappa", initial)
        check_positive("temperature", temperature)
        if weighting not in ("linear", "uniform", "exponential", "kl"):
            raise ValueError(
                f"weighting must be 'linear', 'uniform', 'exponential' or 'kl', got {weighting!r}"
            )
        if ties not in ("first", "fraction"):
            raise ValueError(f"ties must be 'first' or 'fraction', got {ties!r}")
        negative = NegativeBranch(negative_taper, negative_key, negative_scale, remoteness)
        negative.check_weighting(weighting)
        if path not in ("auto", "reference", "fused"):
            raise ValueError(f"path must be 'auto', 'reference' or 'fused', got {path!r}")
        if path == "reference":
            options["skip_filtered"] = False
        super().__init__(actor_network, **options)
        self.path = path
        self._ceiling = KappaCeiling()
        self.controller = controller
        self.weighting = weighting
        self.temperature = temperature
        self.ties = ties
        self.group_key = group_key
        self.normalize = normalize
        self.negative = negative
        if weighting == "linear":
            self._idle_advice = ", or all that are kept; weighting='uniform' clones equals alike"
        if negative.active:
            self.out_keys = [*self.out_keys, *REPORT]
        device = next((p.device for p in actor_network.parameters()), None)
        self.register_coeff_buffer("kappa", float(initial), device=device)

    def _needed_keys(self) -> list[NestedKey]:
        chosen = [key for key in (self.group_key, self.negative.key) if key is not None]
        return [*super()._needed_keys(), *chosen]

    def _batch_numbers(self, tensordict: TensorDictBase) -> tuple[str, ...]:
        numbers = numbers_of_a_batch(self.weighting, self.normalize)
        return (*numbers, "kappa") if self.controller is not None else numbers

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        quality = self._signal(tensordict, "quality", mask)
        kappa = self._buffers["kappa"].clone()  # it moves below; the report speaks of this step
        if self.check_inputs and _checks.wants_check(True, kappa):  # else where it is free
            check_fraction("kappa", float(kappa))
        rule = {"temperature": self.temperature, "normalize": self.normalize}
        if mask is None and self._picks_rows(tensordict, quality):
            best = best_rows(quality, kappa, shared_places=self.weighting != "linear")
            if best is not None:
                self._move_kappa(kappa, best.kept_std, best.batch_std)
                return weigh_kept(best, kappa, self.weighting, **rule)
        owner = type(self).__name__
        disliked = self.negative.dislikes(tensordict, quality.shape, mask, owner)
        if disliked is not None:
            mask = ~disliked if mask is None else mask & ~disliked
        top = self._whole.select_top(
            quality,
            kappa,
            mask=mask,
            ties=self.ties,
            group=self._group_ids(tensordict, self.group_key, quality.shape),
        )
        grouped = self.group_key is not None
        asked = (self.weighting, grouped, self._whole)
        weight, mass = weigh_all(quality, top, kappa, mask, *asked, **rule)
        self._move_kappa(kappa, top.kept_std, top.batch_std)
        count = self._whole.count(quality, mask)
        kept_threshold = top.threshold
        if grouped:
            kept_threshold = (top.threshold.where(top.mass > 0, 0.0) * top.mass).sum()
            (kept_threshold,) = self._whole.sums(kept_threshold)
            kept_threshold = kept_threshold / top.quota.clamp_min(1.0)
        report = {
            "kappa": kappa,
            "threshold": kept_threshold.to(weight.dtype),
            "kept_fraction": (top.quota / count).to(weight.dtype),
            "effective_sample_size": self._whole.effective_sample_size(weight),
            "kept_mean_quality": top.kept_mean,
        }
        if self.negative.active:
            if disliked is not None:
                weight = self.negative.repel_dislikes(weight, disliked)
            else:
                repulsion = self._repulsion(quality, top)
                weight = self.negative.repel_rejected(weight, repulsion, top, mask)
            report.update(report_of(weight, self._whole))
        return Weighting(weight, mass, report)

    def _picks_rows(self, tensordict: TensorDictBase, quality: Tensor) -> bool:
        """Whether the kept rows are all that this batch needs, and the host may read them."""
        return (
            self.skip_filtered
            and self.reduction != "none"
            and self.weighting != "kl"
            and self.group_key is None
            and not self.negative.active
            and quality.ndim == 1
            and reads_are_free(quality)
            and not self._has_priority(tensordict)
            and not self._whole.among_ranks
        )

    def _move_kappa(self, kappa: Tensor, kept_std: Tensor, batch_std: Tensor) -> None:
        """Lets the controller move the buffer from this step's ``kappa`` to the next."""
        if self.controller is not None and self.training:
            self._set_next_kappa(self.controller.step(kappa, kept_std, batch_std))

    def _reweighs(self) -> bool:
        return self.negative.taper is not None

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        return self.negative.tapered(weighting, scored, self._whole)

    def _repulsion(self, quality: Tensor, top: TopSelection) -> Tensor | None:
        """How strongly a rejected row repels, before the scale; ``None`` for -1."""
        if self.weighting != "linear":
            return None
        # In units of the whole batch: the kept rows may all be equal, the rest is not.
        unit = top.batch_std + 1e-8 if self.normalize else 1.0
        return (quality.to(top.mass.dtype) - top.threshold) / unit
