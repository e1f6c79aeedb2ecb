"""DRPO: learn from the best fraction of the log, and let the data move that fraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive
from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.diagnostics import effective_sample_size
from torchrl_drpo.functional.selection import Ties, TopSelection, select_top, weighted_moments
from torchrl_drpo.functional.weights import kl_dro_weights
from torchrl_drpo.objectives.weighted import WeightedLoss, Weighting

DRPOWeighting = Literal["linear", "uniform", "exponential", "kl"]


class DRPOLoss(WeightedLoss):
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
            forward pass in training mode. Lives in the buffer ``kappa``: it follows the module's
            device, is saved with it, and ``loss.kappa = 0.1`` sets it.
        weighting: see the table.
        temperature: of ``"exponential"`` and ``"kl"``, in units of the quality, above 0.
        ties: who fills the last places among equals at the threshold: ``"fraction"`` shares them,
            ``"first"`` takes the lowest row index first.
        group_key: entry with integer ids (user, context, ...): the quota is then filled within
            each group and nu is the group's. ``None`` selects over the batch.
        normalize: divide linear weights by the standard deviation of the kept quality, so that
            the loss does not scale with the rewards.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``kappa`` (used by this step), ``threshold`` (nu;
        with groups its mean over the kept rows), ``kept_fraction`` (K / N),
        ``effective_sample_size`` (in rows) and ``kept_mean_quality``.

    Raises:
        ValueError: for a kappa outside (0, 1], a non-positive temperature, an unknown name.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import DRPOLoss, make_gaussian_actor
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
        super().__init__(actor_network, **options)
        self.controller = controller
        self.weighting = weighting
        self.temperature = temperature
        self.ties = ties
        self.group_key = group_key
        self.normalize = normalize
        device = next((p.device for p in actor_network.parameters()), None)
        self.register_coeff_buffer("kappa", float(initial), device=device)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "kappa" and isinstance(value, (int, float)):
            check_fraction("kappa", value)
        super().__setattr__(name, value)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that ``forward`` needs, the group ids among them."""
        keys = super().in_keys
        if self.group_key is not None and self.group_key not in keys:
            keys.append(self.group_key)
        return keys

    @in_keys.setter
    def in_keys(self, values: list[NestedKey] | None) -> None:
        self._in_keys = values

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        quality = self._signal(tensordict, "quality", mask)
        kappa = self.kappa.clone()  # the buffer moves below; the report speaks of this step
        top = select_top(
            quality,
            kappa,
            mask=mask,
            ties=self.ties,
            group=self._group_ids(tensordict, self.group_key, quality.shape),
        )
        weight, mass = self._rule(quality, top, kappa, mask)
        if self.controller is not None and self.training:
            self.kappa.copy_(self.controller.step(kappa, top.kept_std, top.batch_std))
        valid = quality.numel() if mask is None else mask.sum().clamp_min(1)
        kept_threshold = top.threshold
        if kept_threshold.ndim:
            kept_threshold = (top.threshold.where(top.mass > 0, 0.0) * top.mass).sum()
            kept_threshold = kept_threshold / top.quota.clamp_min(1.0)
        report = {
            "kappa": kappa,
            "threshold": kept_threshold.to(weight.dtype),
            "kept_fraction": (top.quota / valid).to(weight.dtype),
            "effective_sample_size": effective_sample_size(weight),
            "kept_mean_quality": top.kept_mean,
        }
        return Weighting(weight, mass, report)

    def _rule(
        self, quality: Tensor, top: TopSelection, kappa: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The weights, and the mass that they are divided by."""
        if self.weighting == "uniform":
            return top.mass, top.mass
        if self.weighting == "kl":
            weight = kl_dro_weights(quality, kappa, self.temperature, mask)
            return weight, torch.ones_like(weight) if mask is None else mask.to(weight.dtype)
        baseline = top.kept_mean if self.weighting == "exponential" else top.threshold
        # Rows that are not kept may hold anything, and be far enough down to overflow exp.
        advantage = torch.where(top.mass > 0, quality.to(top.mass.dtype) - baseline, 0.0)
        if self.weighting == "exponential":
            return top.mass * torch.exp(advantage / self.temperature), top.mass
        if self.normalize:
            # A common threshold shifts nothing; with one for each group it does.
            grouped = self.group_key is not None
            spread = weighted_moments(advantage, top.mass)[1] if grouped else top.kept_std
            advantage = advantage / (spread + 1e-8)
        return top.mass * advantage, top.mass
