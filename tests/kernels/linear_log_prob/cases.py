"""The problems that the suite poses, and how their answers are compared."""

from __future__ import annotations

import torch

#: Rows, items, width, live rows (None: all), bias: ragged, whole, single and empty.
CASES = [
    (70, 200, 32, None, False),
    (70, 200, 32, 33, True),
    (5, 77, 20, None, True),
    (1, 1, 16, None, False),
    (1, 300, 3, None, True),
    (64, 128, 50, 64, True),
    (40, 97, 64, 0, True),
    (0, 9, 8, None, False),
    (70, 200, 300, 33, True),
    (33, 77, 300, None, False),
    (4, 9, 300, 0, True),
    (0, 9, 300, None, False),
]
#: Beyond eager's own error; eager runs in the inputs' type.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-4, torch.float64: 1e-12}
#: On a GPU, where float32 is multiplied as TF32 and probabilities are rounded to the inputs' type.
GPU_TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}
T = 1 / 1.3


def close(ours, theirs, device, *, scale=1.0, **strict):
    """``assert_close`` as strict as asked for, and on a GPU as close as TF32 lets it be."""
    if device.type == "cuda":
        strict = {"rtol": 2e-3, "atol": 2e-3 * scale}
    torch.testing.assert_close(ours, theirs, **strict)


def make(case, device, dtype=torch.float32):
    """Values that half precision holds, so that TF32 multiplies them exactly."""
    n, v, d, live, bias = case
    hidden, items = (
        (torch.randn(n, d) / d**0.25).half().to(dtype),
        torch.randn(v, d).half().to(dtype),
    )
    offset = torch.randn(v).to(dtype) if bias else None
    action = torch.randint(v, (n,))
    n_rows = None if live is None else torch.tensor([live], device=device)
    to = [None if x is None else x.to(device) for x in (hidden, items, action, n_rows, offset)]
    return to


def slopes(n, device):
    """What reaches log_prob and lse from above; the same for the first rows whatever n is."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(max(n, 100), 2, generator=generator, dtype=torch.float64)
    return tuple(draws.to(device)[:n].T)


def run(function, hidden, items, action, n_rows, bias):
    """Outputs and gradients, float64, from leaves of the given type."""
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, items, bias) if x is not None]
    offset = leaves[2] if bias is not None else None
    outputs = function(leaves[0], leaves[1], action, n_rows, offset, 1 / T)[:2]
    weights = slopes(hidden.shape[0], hidden.device)
    loss = sum((w * out.double()).sum() for w, out in zip(weights, outputs, strict=True))
    grads = torch.autograd.grad(loss, leaves)
    return [x.detach().double() for x in (*outputs, *grads)]


def eager(hidden, items, action, n_rows, bias, inverse_temperature):
    """What a user would write, in the inputs' own type; all rows live."""
    logits = hidden @ items.T
    logits = (logits if bias is None else logits + bias) * inverse_temperature
    lse = logits.logsumexp(-1)
    return logits.gather(-1, action[:, None])[:, 0] - lse, lse
