"""Registration of ``drpo::select`` and the public function over it."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import (
    HAS_TRITON,
    MAX_ROWS,
    check_shape,
    check_tensor,
    uses_triton,
)
from torchrl_drpo_kernels.select import reference
from torchrl_drpo_kernels.select.rule import Count, Rule, Selection, Stat

if HAS_TRITON:
    from torchrl_drpo_kernels.select import kernel


def select(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor | float,
    *,
    weighting: str = "linear",
    ties: str = "fraction",
    temperature: float = 0.05,
    normalize: bool = True,
    eps: float = 1e-8,
    target_ratio: float = 0.5,
    bounds: tuple[float, float] = (0.05, 1.0),
    up: float = 1.02,
    down: float = 0.98,
) -> Selection:
    r"""The top kappa of a batch by quality: rows, weights, moments and the next kappa.

    The quota is K = round half up of ``kappa`` times the number of valid rows, at least 1, and
    the threshold nu is the K-th largest quality. Quality that is NaN or infinite is never kept
    and never counted, like a masked row: minus infinity is a way to exclude a row, and no single
    broken value can become the threshold. -0.0 equals +0.0. Nothing is differentiable.

    On CUDA nothing is read back to the host: one launch up to 16,384 rows, seven and a memset
    beyond, all of them capturable in a CUDA graph, and the same bits on every run. On a CPU it is
    a partial selection in ATen. Moments accumulate in float64.

    Args:
        quality: ``[N]`` float32, dense.
        mask: ``[N]`` bool, ``True`` where a row counts, or ``None``.
        kappa: fraction to keep, in (0, 1]: a ``[1]`` float32 tensor on the device of ``quality``,
            or a number. A tensor's value is checked on a CPU only, since on CUDA looking at it
            would wait for the device; there K stays within 1 and N whatever it holds.
        weighting: ``"linear"``: (r - nu) / (std of the K kept + ``eps``); ``"uniform"``: 1;
            ``"exponential"``: exp((r - mean of the K kept) / ``temperature``).
        ties: who fills the last places when rows tie at nu: ``"first"``, those of lowest index;
            ``"fraction"``, all of them with an equal part of the weight. Rows at nu have no
            linear weight, so there it changes nothing.
        temperature: of the exponential weights, in units of quality.
        normalize: whether linear weights are divided by the kept standard deviation.
        eps: added to that standard deviation.
        target_ratio: the controller widens while kept std < ``target_ratio`` batch std.
        bounds: smallest and largest kappa of the controller.
        up: factor on kappa when it widens.
        down: factor on kappa when it narrows.

    Returns:
        A :class:`Selection`. The loss of the paper is ``-(weight * log_prob).sum() / quota`` with
        log-probs of the rows in ``index``.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a rank, shape, device, stride or option is wrong, or kappa out of (0, 1].

    Source: arXiv 2602.10430, sec. 4.2 and the algorithm box of its appendix.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import select
        >>> quality = torch.tensor([0.0, 3.0, 1.0, 2.0, 1.0])
        >>> kept = select(quality, None, 0.6, weighting="uniform")  # K = 3, nu = 1, two rows tie
        >>> kept.index[: kept.n_rows].tolist(), kept.weight[: kept.n_rows].tolist()
        ([1, 2, 3, 4], [1.0, 0.5, 1.0, 0.5])
        >>> kept.quota.item(), kept.threshold.item()
        (3, 1.0)
    """
    rule = Rule.of(
        weighting=weighting, ties=ties, temperature=temperature, normalize=normalize, eps=eps,
        target_ratio=target_ratio, bounds=bounds, up=up, down=down,
    )  # fmt: skip
    kappa = check(quality, mask, kappa)
    return Selection(*_select(quality.detach(), mask, kappa.detach(), *rule))


def check(quality: Tensor, mask: Tensor | None, kappa: Tensor | float) -> Tensor:
    """Raises on arguments that do not fit; returns kappa as a ``[1]`` tensor."""
    check_tensor("quality", quality, dtypes=(torch.float32,), ndim=1)
    if quality.shape[0] > MAX_ROWS:
        raise ValueError(f"quality may have at most {MAX_ROWS} rows, got {quality.shape[0]}")
    if mask is not None:
        check_tensor("mask", mask, dtypes=(torch.bool,), ndim=1, like=quality)
        check_shape("mask", mask, tuple(quality.shape), "that of quality")
    if not isinstance(kappa, Tensor):
        if not isinstance(kappa, (int, float)):
            kind = type(kappa).__name__
            raise TypeError(f"kappa must be a number or a [1] float32 tensor, got {kind}")
        if not 0 < kappa <= 1:
            raise ValueError(f"kappa must lie in (0, 1], got {kappa}")
        kappa = torch.full((1,), kappa, dtype=torch.float32, device=quality.device)
    check_tensor("kappa", kappa, dtypes=(torch.float32,), ndim=1, like=quality)
    check_shape("kappa", kappa, (1,), "one number")
    return kappa


def run(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(index, weight, stats, counts) by the implementation that the device calls for."""
    if kappa.device.type == "cpu" and not 0 < kappa.item() <= 1:
        raise ValueError(f"kappa must lie in (0, 1], got {kappa.item()}")
    if uses_triton(quality):
        return kernel.select(quality, mask, kappa, rule)
    return reference.select(quality, mask, kappa, rule)


@torch.library.custom_op("drpo::select", mutates_args=())
def _select(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    weighting: str,
    ties: str,
    temperature: float,
    normalize: bool,
    eps: float,
    target_ratio: float,
    low: float,
    high: float,
    up: float,
    down: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns (index, weight, stats, counts); see :class:`Selection`."""
    rule = Rule(weighting, ties, temperature, normalize, eps, target_ratio, low, high, up, down)
    return run(quality, mask, kappa, rule)


@_select.register_fake
def _(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, *options: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = quality.new_empty(quality.shape, dtype=torch.int32)
    return (
        index,
        torch.empty_like(quality),
        quality.new_empty(len(Stat)),
        index.new_empty(len(Count)),
    )
