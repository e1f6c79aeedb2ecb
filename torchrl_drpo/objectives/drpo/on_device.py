"""DRPO's step with the selection on the device: which rows the policy sees, and what follows."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl_drpo_kernels import Selection

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.host import is_batched
from torchrl_drpo.objectives import _batch
from torchrl_drpo.objectives._weighting import Weighting
from torchrl_drpo.objectives.drpo import fused
from torchrl_drpo.objectives.drpo.ceiling import KappaCeiling
from torchrl_drpo.objectives.drpo.negative import NegativeBranch
from torchrl_drpo.objectives.weighted import WeightedLoss

#: Options of the loss that the selection op takes under the same name.
_SELECT_OPTIONS = ("weighting", "ties", "temperature", "normalize")


class SelectionOnDevice(WeightedLoss):
    """The part of :class:`~torchrl_drpo.objectives.drpo.loss.DRPOLoss` that is the selection op's.

    It reads the options that the loss sets, and none of them is optional.
    """

    kappa: Tensor
    controller: AdaptiveKappa | None
    negative: NegativeBranch
    path: str
    _ceiling: KappaCeiling

    def _fused(self, tensordict: TensorDictBase, mask: Tensor | None) -> dict[str, Tensor] | None:
        """The step with the selection on the device, where the options allow it."""
        if not self._wants_fused(tensordict):
            return None
        with torch.no_grad():
            quality = self._signal(tensordict, "quality", mask)
            kappa = self.kappa.clone()
            crowded = self.ties == "fraction" and self.weighting != "linear"
            bound = self._ceiling.bound(self.kappa)
            rows = fused.most_rows(quality.shape[0], bound, ties_may_crowd=crowded)
            rule = {name: getattr(self, name) for name in _SELECT_OPTIONS}
        if rows == quality.shape[0]:
            loss, selection = self._on_all_rows(tensordict, quality, mask, kappa, rule)
        else:
            loss, selection = self._on_rows(tensordict, quality, mask, kappa, rule, rows)
        if self.controller is not None and self.training:
            with torch.no_grad():
                self._set_next_kappa(selection.next_kappa.squeeze(0))
                self._ceiling.advance(self.kappa, self.controller)
        report = fused.report_of(selection, kappa)
        told = {name: value for name, value in report.items() if name in self.out_keys}
        return {"loss_actor": loss, **told}

    def _set_next_kappa(self, following: Tensor) -> None:
        held = self._buffers["kappa"]
        if is_batched(following) and not is_batched(held):
            raise RuntimeError(
                "an adaptive kappa moves at each training step, and a vmap over batches would move "
                "one kappa to many places; call loss.eval(), or give kappa a number"
            )
        held.copy_(following)

    def _on_rows(
        self,
        tensordict: TensorDictBase,
        quality: Tensor,
        mask: Tensor | None,
        kappa: Tensor,
        rule: dict[str, Any],
        rows: int,
    ) -> tuple[Tensor, Selection]:
        """The policy sees ``rows`` rows, those that were kept among them."""
        selection = fused.select_rows(quality, mask, kappa, self.controller, rule)
        self._took("fused")
        kept = selection.index[:rows].long()  # places behind the kept rows repeat row 0
        # Row 0 may be padding, and padding may be NaN, which has a gradient even at weight zero.
        inputs = self._inputs(
            tensordict, kept, None if mask is None else mask.index_select(0, kept)
        )
        action = inputs.get(self.tensor_keys.action)
        with self._actor_parameters():
            dist = self.actor_network.get_dist(inputs)
            log_prob = fused.kept_log_prob(dist, action, selection.n_rows, inputs.shape)
        return self._reduce_selected(log_prob, selection, rows), selection

    def _on_all_rows(
        self,
        tensordict: TensorDictBase,
        quality: Tensor,
        mask: Tensor | None,
        kappa: Tensor,
        rule: dict[str, Any],
    ) -> tuple[Tensor, Selection]:
        """The policy sees every row, and all that follows is one op if there is one."""
        inputs = self._inputs(tensordict, None, mask)
        action = inputs.get(self.tensor_keys.action)
        with self._actor_parameters():
            dist = self.actor_network.get_dist(inputs)
            step = fused.step_on_all_rows(dist, action, quality, mask, kappa, self.controller, rule)
            if step is not None:
                self._took("fused_op")
                loss, selection = step
                return loss * selection.quota if self.reduction == "sum" else loss, selection
            log_prob = _batch.action_log_prob(dist, action, inputs.shape)
        self._took("fused")
        selection = fused.select_rows(quality, mask, kappa, self.controller, rule)
        kept = log_prob.index_select(0, selection.index)
        return self._reduce_selected(kept, selection, quality.shape[0]), selection

    def _reduce_selected(self, log_prob: Tensor, selection: Selection, rows: int) -> Tensor:
        weight = selection.weight[:rows]
        total = selection.quota.float()
        return self._reduce_weighted(log_prob, Weighting(weight, weight, {}), total)

    def _wants_fused(self, tensordict: TensorDictBase) -> bool:
        """Whether this batch goes through the selection op."""
        if self.path == "reference" or (
            self.path == "auto" and self._buffers["kappa"].device.type != "cuda"
        ):
            return False
        possible = (
            tensordict.ndim == 1
            and self.level == "step"
            and self.reduction != "none"
            and self.weighting != "kl"
            and self.group_key is None
            and not self.negative.active
            and not self._has_priority(tensordict)
            and not self._whole.among_ranks
        )
        if self.path == "fused" and not possible:
            raise ValueError(
                "path='fused' is for flat batches at step level, without groups, 'kl' weights, a "
                "negative branch, priority weights, reduction='none' or over=; use path='auto'"
            )
        return possible and (self.path == "fused" or self.skip_filtered)
