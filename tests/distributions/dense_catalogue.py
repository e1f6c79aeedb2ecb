"""Random parameters of a catalogue's policy, and torch's Categorical of them."""

from __future__ import annotations

import torch
from torch.distributions import Categorical

V, D = 23, 5


def parameters(*batch, bias=True, excluded=False, dtype=torch.float64):
    hidden, items = torch.randn(*batch, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    offset = torch.randn(V, dtype=dtype) if bias else None
    if excluded:
        offset[:9] = -torch.inf  # the whole first tile and a part of the second
    return [x if x is None else x.requires_grad_() for x in (hidden, items, offset)]


def dense(hidden, items, bias, temperature):
    logits = hidden @ items.T
    logits = (logits if bias is None else logits + bias) / temperature
    return Categorical(logits=logits, validate_args=False)  # whose check fails on empty batches


def gradients(value, inputs):
    inputs = [x for x in inputs if x is not None]
    return torch.autograd.grad(value.pow(2).sum(), inputs)
