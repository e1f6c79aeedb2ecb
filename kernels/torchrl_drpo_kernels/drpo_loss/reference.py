r"""The specification of the fused steps in plain ATen: every row is scored, most times zero.

    w, K = select(quality, mask, kappa)           weights of all N rows, 0 where not kept
    loss = -1/K sum_i w_i log pi(a_i|s_i)         0 where nothing was kept

The fused steps give this loss and this gradient, and touch the kept rows only.

Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo_kernels.gather_log_prob import reference as gather
from torchrl_drpo_kernels.gaussian_log_prob import reference as gaussian
from torchrl_drpo_kernels.linear_log_prob import reference as linear
from torchrl_drpo_kernels.select import reference as selection
from torchrl_drpo_kernels.select.rule import Count, Rule


def masked_loss(
    log_prob: Tensor, quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule
) -> Tensor:
    """The loss from the log-probabilities of all rows, 0-dim.

    >>> log_prob, quality = torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([0.0, 2, 1, 3])
    >>> rule = Rule("uniform")  # K = 2: rows 1 and 3
    >>> masked_loss(log_prob, quality, None, torch.tensor([0.5]), rule)
    tensor(3.)
    """
    index, kept_weight, _, counts = selection.select(quality, mask, kappa, rule)
    n_rows, quota = int(counts[Count.N_ROWS]), counts[Count.QUOTA].clamp_min(1)
    weight = log_prob.new_zeros(log_prob.shape)
    weight[index[:n_rows].long()] = kept_weight[:n_rows].to(log_prob.dtype)
    return -(weight * torch.where(weight != 0, log_prob, 0.0)).sum() / quota


def drpo_gaussian_loss(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    rule: Rule,
) -> Tensor:
    """The step under a diagonal Gaussian policy."""
    log_prob, _ = gaussian.gaussian_log_prob(mean, log_std, action, None, None)
    return masked_loss(log_prob, quality, mask, kappa, rule)


def drpo_catalogue_loss(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    rule: Rule,
    bias: Tensor | None = None,
    inverse_temperature: float = 1.0,
) -> Tensor:
    """The step under a softmax over a catalogue; builds the ``[N, V]`` logits."""
    log_prob, _, _ = linear.linear_log_prob(hidden, items, action, None, bias, inverse_temperature)
    return masked_loss(log_prob, quality, mask, kappa, rule)


def drpo_gather_loss(
    logits: Tensor,
    action: Tensor,
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    rule: Rule,
    token_mask: Tensor | None = None,
) -> Tensor:
    """The step under given logits ``[N, T, V]`` of sequences."""
    log_prob, _ = gather.gather_log_prob(logits, action, token_mask, None, None)
    return masked_loss(log_prob, quality, mask, kappa, rule)
