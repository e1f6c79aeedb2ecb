"""Custom ops for offline policy losses; needs torch and triton only.

Where Triton is missing, or a tensor lies on a CPU, every op runs its ATen reference: the same
results to rounding, differentiable twice.
"""

from __future__ import annotations

from torchrl_drpo_kernels._common import backend, reference_only
from torchrl_drpo_kernels.drpo_loss.catalogue import drpo_catalogue_loss
from torchrl_drpo_kernels.drpo_loss.gather import drpo_gather_loss
from torchrl_drpo_kernels.drpo_loss.gaussian import drpo_gaussian_loss
from torchrl_drpo_kernels.drpo_loss.step import DRPOStep
from torchrl_drpo_kernels.gather_log_prob.op import gather_log_prob
from torchrl_drpo_kernels.gaussian_log_prob.op import gaussian_log_prob
from torchrl_drpo_kernels.linear_log_prob.op import linear_log_prob
from torchrl_drpo_kernels.select.op import select
from torchrl_drpo_kernels.select.rule import Count, Selection, Stat
from torchrl_drpo_kernels.signed_taper.op import signed_taper

__all__ = [
    "Count",
    "DRPOStep",
    "Selection",
    "Stat",
    "backend",
    "drpo_catalogue_loss",
    "drpo_gather_loss",
    "drpo_gaussian_loss",
    "gather_log_prob",
    "gaussian_log_prob",
    "linear_log_prob",
    "reference_only",
    "select",
    "signed_taper",
]
