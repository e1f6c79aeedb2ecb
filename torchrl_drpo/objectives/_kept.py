"""DRPO's weights on the rows that are kept, where the host may read which they are.

On the CPU this is the common step. Weighing every row first and then looking for those with weight
takes as long as the selection itself on a batch of a few hundred rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.diagnostics import effective_sample_size
from torchrl_drpo.functional.selection import BestRows
from torchrl_drpo.objectives.weighted import WeightingOfRows


def weigh_kept(
    best: BestRows, kappa: Tensor, weighting: str, *, temperature: float, normalize: bool
) -> WeightingOfRows:
    """The weights of the best rows under a rule that looks at nothing else, and DRPO's report."""
    quota = torch.tensor(best.quota, dtype=torch.float64)
    rows, quality, threshold = best.rows, best.quality, best.quality[-1]
    if weighting == "uniform":
        weight = torch.ones_like(quality)
    elif weighting == "exponential":
        weight = torch.exp((quality - best.kept_mean) / temperature)
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
