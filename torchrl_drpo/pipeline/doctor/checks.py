"""Every custom op, and a few steps of training, against float64 and plain PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl_drpo_kernels import (
    backend,
    gather_log_prob,
    gaussian_log_prob,
    linear_log_prob,
    select,
    signed_taper,
)

from torchrl_drpo.objectives import DRPOLoss
from torchrl_drpo.policies.catalogue import make_catalogue_actor

#: Largest error that counts as rounding of float32, beside numbers of about one.
TOLERANCE = 1e-4
ROWS, ITEMS, DIM = 256, 1_000, 16


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the op, or what was done.
        device: where.
        backend: ``"triton"`` or ``"aten"``.
        error: largest distance from the float64 result; NaN where it raised.
        seconds: it took, compiling a kernel included.
        failure: what was raised; empty for nothing.
    """

    name: str
    device: str
    backend: str
    error: float
    seconds: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it computed what it should."""
        return not self.failure and self.error <= TOLERANCE


def run_checks(devices: list[str]) -> list[Check]:
    """Runs all checks on some devices; an error of one is its result."""
    return [_timed(name, check, device) for device in devices for name, check in CHECKS.items()]


def _timed(name: str, check: Callable[[str], float], device: str) -> Check:
    torch.manual_seed(0)
    started, error, failure = time.perf_counter(), math.nan, ""
    try:
        kind = backend(torch.zeros(1, device=device))
        error = check(device)
    except Exception as raised:  # whatever it is, it is what is asked for
        failure = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"
        kind = "none"
    return Check(name, device, kind, error, time.perf_counter() - started, failure)


def _select(device: str) -> float:
    quality = torch.rand(ROWS)
    found = select(quality.to(device), None, 0.1, weighting="uniform")
    count = int(found.n_rows)
    wanted = quality.topk(round(0.1 * ROWS)).indices.sort().values
    return float(not torch.equal(found.index[:count].cpu().long(), wanted))


def _gather(device: str) -> float:
    logits, action = torch.randn(ROWS, ITEMS), torch.randint(ITEMS, (ROWS,))

    def plain(z: Tensor) -> Tensor:
        return z.log_softmax(-1).gather(1, action[:, None]).squeeze(1)

    return _difference(lambda z: gather_log_prob(z, action.to(z.device)), plain, [logits], device)


def _linear(device: str) -> float:
    hidden, items, action = torch.randn(ROWS, DIM), torch.randn(ITEMS, DIM), _items()

    def plain(h: Tensor, e: Tensor) -> Tensor:
        return (h @ e.T).log_softmax(-1).gather(1, action[:, None]).squeeze(1)

    return _difference(
        lambda h, e: linear_log_prob(h, e, action.to(h.device))[0], plain, [hidden, items], device
    )


def _gaussian(device: str) -> float:
    mean, action, log_std = torch.randn(ROWS, DIM), torch.randn(ROWS, DIM), 0.1 * torch.randn(DIM)

    def plain(m: Tensor, s: Tensor) -> Tensor:
        normal = torch.distributions.Normal(m, s.exp())
        return normal.log_prob(action.to(m)).sum(-1)

    def ours(m: Tensor, s: Tensor) -> Tensor:
        return gaussian_log_prob(m, s, action.to(m))[0]

    return _difference(ours, plain, [mean, log_std], device)


def _taper(device: str) -> float:
    log_prob, remoteness = -torch.rand(ROWS), 3 * torch.rand(ROWS)
    advantage = torch.randn(ROWS)

    def plain(log_p: Tensor) -> Tensor:
        a = advantage.to(log_p)
        fade = (-(remoteness.to(log_p))).exp()
        return -torch.where(a > 0, a, a * fade) * log_p

    def ours(log_p: Tensor) -> Tensor:
        return signed_taper(log_p, advantage.to(log_p), remoteness.to(log_p))[0]

    return _difference(ours, plain, [log_prob], device)


def _training(device: str) -> float:
    """Ten steps of DRPO on a tiny catalogue: by the device's path, and by plain PyTorch."""
    rows = TensorDict(
        {
            "observation": {"history": torch.randint(-1, 50, (ROWS, 4))},
            "action": torch.randint(50, (ROWS,)),
            "next": {"reward": torch.rand(ROWS, 1)},
        },
        [ROWS],
    ).to(device)
    ends = []
    for path in ("auto", "reference"):
        torch.manual_seed(1)
        actor = make_catalogue_actor(50, dim=8, history=4).to(device)
        loss = DRPOLoss(actor, path=path)
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            value = loss(rows)["loss_actor"]
            value.backward()
            optimizer.step()
        ends.append(value.item())
    return abs(ends[0] - ends[1])


CHECKS: dict[str, Callable[[str], float]] = {
    "select": _select,
    "gather_log_prob": _gather,
    "linear_log_prob": _linear,
    "gaussian_log_prob": _gaussian,
    "signed_taper": _taper,
    "ten steps of DRPO": _training,
}


def _items() -> Tensor:
    return torch.randint(ITEMS, (ROWS,))


def _difference(
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    inputs: list[Tensor],
    device: str,
) -> float:
    """Largest distance of values and gradients from plain PyTorch's in float64."""
    weight = torch.randn(ROWS)
    found = _with_gradients(ours, [each.to(device) for each in inputs], weight.to(device))
    wanted = _with_gradients(plain, [each.double() for each in inputs], weight.double())
    pairs = zip(found, wanted, strict=True)
    return max((a.cpu().double() - b).abs().max().item() for a, b in pairs)


def _with_gradients(
    of: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor
) -> list[Tensor]:
    leaves = [each.requires_grad_() for each in inputs]
    value = of(*leaves)
    gradients = torch.autograd.grad((value * weight).sum() / ROWS, leaves)
    return [value.detach(), *gradients]
