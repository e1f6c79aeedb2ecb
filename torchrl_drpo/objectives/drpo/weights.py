"""DRPO's weights: of every row, or of the kept rows alone where the host may read which they are.

On the CPU the second is the common step. Weighing every row first and then looking for those with
weight takes as long as the selection itself on a batch of a few hundred rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.distributed.whole_batch import WholeBatch
from torchrl_drpo.functional.diagnostics import effective_sample_size
from torchrl_drpo.functional.reductions import centred
from torchrl_drpo.functional.selection import BestRows, TopSelection
from torchrl_drpo.objectives._weighting import WeightingOfRows


def numbers_of_a_batch(weighting: str, normalize: bool) -> tuple[str, ...]:
    """Names of what a weighting takes from the batch as a whole."""
    if weighting == "linear":
        return ("threshold", "standard deviation") if normalize else ("threshold",)
    return {
        "uniform": ("threshold",),
        "exponential": ("threshold", "mean of the kept rows"),
        "kl": ("normaliser",),
    }[weighting]


def weigh_kept(
    best: BestRows, kappa: Tensor, weighting: str, *, temperature: float, normalize: bool
) -> WeightingOfRows:
    """The weights of the best rows under a rule that looks at nothing else, and DRPO's report."""
    quota = torch.tensor(best.quota, dtype=torch.float64)
    rows, quality, threshold = best.rows, best.quality, best.quality[-1]
    if weighting == "uniform":
        weight = torch.ones_like(quality)
    elif weighting == "exponential":
        weight = torch.exp(centred(quality) / temperature)
    else:
        weight = quality - threshold
        # Best first, so the rows at the threshold, which weigh nothing, come last. One stays, to
        # keep the graph and its zero gradient where all rows are equal.
        above = max(1, int(torch.count_nonzero(weight)))
        rows, weight = rows[:above], weight[:above]
        if normalize:
            weight = weight / (best.kept_std + 1e-8)
    report = {
        "kappa": kappa,
        "threshold": threshold,
        "kept_fraction": (quota / best.batch).to(weight.dtype),
        "effective_sample_size": effective_sample_size(weight),
        "kept_mean_quality": best.kept_mean,
    }
    return WeightingOfRows(weight, weight, report, rows, quota)


def weigh_all(
    quality: Tensor,
    top: TopSelection,
    kappa: Tensor,
    mask: Tensor | None,
    weighting: str,
    grouped: bool,
    whole: WholeBatch,
    *,
    temperature: float,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """The weights of all rows, and the mass that they are divided by."""
    if weighting == "uniform":
        return top.mass, top.mass
    if weighting == "kl":
        weight = whole.kl_weights(quality, kappa, temperature, mask)
        return weight, torch.ones_like(weight) if mask is None else mask.to(weight.dtype)
    if weighting == "linear" and not grouped and mask is None:
        # Rows at the threshold weigh nothing, so there is no mass to share.
        advantage = (quality - top.threshold).clamp_min(0.0)
        return advantage / (top.kept_std + 1e-8) if normalize else advantage, top.mass
    if weighting == "exponential":
        return top.mass * torch.exp(whole.centred(quality, top.mass) / temperature), top.mass
    # Rows that are not kept may hold anything.
    advantage = torch.where(top.mass > 0, quality.to(top.mass.dtype) - top.threshold, 0.0)
    if normalize:
        # A common threshold shifts nothing; with one for each group it does.
        spread = whole.std(advantage, top.mass) if grouped else top.kept_std
        advantage = advantage / (spread + 1e-8)
    return top.mass * advantage, top.mass
