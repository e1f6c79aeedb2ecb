"""Policy families for the fused steps, and their losses by torch.distributions."""

from __future__ import annotations

from functools import partial

import torch
from torch.distributions import Categorical, Independent, Normal
from torchrl_drpo_kernels import drpo_catalogue_loss, drpo_gather_loss, drpo_gaussian_loss, select

V, D, T = 37, 16, 3
FAMILIES = ("gaussian", "shared", "catalogue", "biased", "items", "tokens")


class Family:
    """One policy family: leaves, a fused step, and the log-probability by other code."""

    def __init__(self, name, n, device, dtype=torch.float32):
        def draw(*shape):
            return torch.randn(*shape, dtype=torch.float64).to(device, dtype).requires_grad_()

        self.name, self.n = name, n
        ids = partial(torch.randint, V, device=device)
        if name in ("gaussian", "shared"):
            self.leaves = [draw(n, 5), draw(n, 5) if name == "gaussian" else draw(5)]
            self.action = draw(n, 5).detach()
        elif name in ("catalogue", "biased"):
            self.leaves = [draw(n, D), draw(V, D), *([draw(V)] if name == "biased" else [])]
            self.action = ids((n,))
        elif name == "items":
            self.leaves, self.action = [draw(n, V)], ids((n,))
        else:
            self.leaves, self.action = [draw(n, T, V)], ids((n, T))
            self.token_mask = torch.rand(n, T, device=device) < 0.7

    def fused(self, quality, kappa, mask=None, leaves=None, **options):
        leaves = self.leaves if leaves is None else leaves
        if self.name in ("gaussian", "shared"):
            return drpo_gaussian_loss(*leaves, self.action, quality, kappa, mask, **options)
        if self.name in ("catalogue", "biased"):
            options |= {"bias": leaves[2] if len(leaves) > 2 else None, "inverse_temperature": 1.3}
            return drpo_catalogue_loss(*leaves[:2], self.action, quality, kappa, mask, **options)
        if self.name == "tokens":
            options["token_mask"] = self.token_mask
        return drpo_gather_loss(*leaves, self.action, quality, kappa, mask, **options)

    def log_prob(self, *leaves):
        """Of all rows."""
        if self.name in ("gaussian", "shared"):
            mean, log_std = leaves
            return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1).log_prob(self.action)
        if self.name in ("catalogue", "biased"):
            logits = leaves[0] @ leaves[1].T
            logits = (logits + leaves[2] if len(leaves) > 2 else logits) * 1.3
            return Categorical(logits=logits).log_prob(self.action)
        log_prob = Categorical(logits=leaves[0]).log_prob(self.action)
        if self.name == "tokens":
            return torch.where(self.token_mask, log_prob, 0).sum(-1)
        return log_prob


def dense(family, quality, kappa, mask=None, **options):
    """The loss over all rows in float64, and its gradients."""
    chosen = select(quality, mask, kappa, **options)
    n_rows, quota = int(chosen.n_rows), int(chosen.quota)
    weight = torch.zeros(family.n, dtype=torch.float64, device=quality.device)
    weight[chosen.index[:n_rows].long()] = chosen.weight[:n_rows].double()
    leaves = [x.detach().double().requires_grad_() for x in family.leaves]
    loss = -(weight * family.log_prob(*leaves)).sum() / max(1, quota)
    return loss.detach(), torch.autograd.grad(loss, leaves), weight


def qualities(n, device):
    return torch.randint(0, 12, (n,), device=device) / 7  # ties are the rule
