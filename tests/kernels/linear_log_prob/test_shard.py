"""Shards of a catalogue make up the whole, values and gradients, held against dense float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torchrl_drpo_kernels.linear_log_prob.shard import linear_log_prob_shard

N, V, D, INVERSE = 21, 37, 16, 1.3
#: Relative to the largest number, of values and gradients that were rounded to the type.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}


def log_prob_of(shards, hidden, items, bias, action):
    """What ranks would say together, each knowing its own items only."""
    score, lse = [], []
    for low, high in pairwise(shards):
        mine = (action >= low) & (action < high)
        part = None if bias is None else bias[low:high]
        place = torch.where(mine, action - low, -1)
        found = linear_log_prob_shard(hidden, items[low:high], place, part, INVERSE)
        score.append(found[0])
        lse.append(found[1])
    return torch.stack(score).sum(0) - torch.stack(lse).logsumexp(0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shards", [(0, V), (0, 16, V), (0, 0, 1, 30, V)], ids=str)
def test_shards_make_up_the_whole(shards, biased, dtype, device):
    leaves = [torch.randn(N, D), torch.randn(V, D), *([torch.randn(V)] if biased else [])]
    leaves = [x.to(device, dtype).requires_grad_() for x in leaves]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    action = torch.randint(V, (N,), device=device)
    sent = torch.randn(N, device=device)

    log_prob = log_prob_of(shards, *leaves[:2], leaves[2] if biased else None, action)
    logits = exact[0] @ exact[1].T + (exact[2] if biased else 0)
    wanted = (INVERSE * logits).log_softmax(1).gather(1, action[:, None])[:, 0]

    found = log_prob, *torch.autograd.grad(log_prob, leaves, sent)
    for ours, theirs in zip(
        found, (wanted, *torch.autograd.grad(wanted, exact, sent.double())), strict=True
    ):
        bound = TOLERANCE[dtype] * theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=bound)
