"""One training step over a catalogue, in every way that is worth comparing.

A step selects the best kappa of a batch (weights (R - nu)+), forms the weighted log-likelihood
of their items, and runs the backward into states and item embeddings. All ways give the same
loss and the same gradients. As a script, prints the peak memory of one step in bytes:

    python tests/benchmarks/catalogue_steps.py ours --rows 4096 --items 50000 --width 128 --kappa .1
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl_drpo_kernels import drpo_catalogue_loss, linear_log_prob, select


class Problem(NamedTuple):
    """Sizes of a step, and where and in what type it runs."""

    rows: int
    items: int
    width: int
    kappa: float
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class Batch(NamedTuple):
    """States (leaves), item embeddings (leaves), logged items and their quality."""

    hidden: Tensor
    table: Tensor
    action: Tensor
    quality: Tensor


def make_batch(problem: Problem) -> Batch:
    """A random batch, the same for the same sizes."""
    torch.manual_seed(0)
    place = {"device": problem.device, "dtype": problem.dtype}
    hidden = torch.randn(problem.rows, problem.width, **place) / problem.width**0.5
    return Batch(
        hidden.requires_grad_(),
        torch.randn(problem.items, problem.width, **place).requires_grad_(),
        torch.randint(problem.items, (problem.rows,), device=problem.device),
        torch.randn(problem.rows, device=problem.device),
    )


def _most_rows(batch: Batch, kappa: float) -> int:
    """K as the host knows it, from a fixed kappa: all ways may use that, ours as a bound."""
    return max(1, int(kappa * batch.quality.shape[0] + 0.5))


def ours(batch: Batch, kappa: float) -> Tensor:
    """``drpo::select`` and ``drpo::linear_log_prob``."""
    kept = select(batch.quality, None, kappa, normalize=False)
    places = slice(_most_rows(batch, kappa))
    log_prob, _ = linear_log_prob(
        batch.hidden, batch.table, batch.action, kept.n_rows, index=kept.index[places]
    )
    return -(kept.weight[places] * log_prob).sum() / kept.quota


def ours_in_one_op(batch: Batch, kappa: float) -> Tensor:
    """``drpo::drpo_catalogue_loss``."""
    hidden, table, action, quality = batch
    options = {"normalize": False, "max_rows": _most_rows(batch, kappa)}
    return drpo_catalogue_loss(hidden, table, action, quality, kappa, **options).loss


def _top(batch: Batch, kappa: float) -> tuple[Tensor, Tensor]:
    """Rows of the top kappa and what each weighs in the loss."""
    best, rows = batch.quality.topk(_most_rows(batch, kappa))
    k = best.shape[0]
    return rows, (best - best[-1]) / k


Nll = Callable[[Tensor, Tensor, Tensor], Tensor]


def gathered(nll: Nll) -> Callable[[Batch, float], Tensor]:
    """``topk``, gather, and somebody's negative log-likelihood of the kept rows."""

    def step(batch: Batch, kappa: float) -> Tensor:
        rows, weight = _top(batch, kappa)
        loss = nll(batch.hidden[rows], batch.table, batch.action[rows])
        return (weight * loss).sum()

    return step


def dense(nll: Nll) -> Callable[[Batch, float], Tensor]:
    """Somebody's negative log-likelihood of every row, most of it times zero."""

    def step(batch: Batch, kappa: float) -> Tensor:
        rows, weight = _top(batch, kappa)
        every = torch.zeros_like(batch.quality).index_copy(0, rows, weight)
        return (every * nll(batch.hidden, batch.table, batch.action)).sum()

    return step


def cross_entropy(hidden: Tensor, table: Tensor, action: Tensor) -> Tensor:
    """Logits and softmax kept, as autograd keeps them."""
    return F.cross_entropy((hidden @ table.T).float(), action, reduction="none")


def linear_cross_entropy(hidden: Tensor, table: Tensor, action: Tensor) -> Tensor:
    """torch's (2.13), in row chunks with its own choice of sizes."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, table, action, reduction="none", options=options)


@cache
def _compiled() -> Nll:
    return torch.compile(cross_entropy, dynamic=False)


def compiled_cross_entropy(hidden: Tensor, table: Tensor, action: Tensor) -> Tensor:
    """Cross-entropy through ``torch.compile``."""
    return _compiled()(hidden, table, action)


def cut_cross_entropy(hidden: Tensor, table: Tensor, action: Tensor) -> Tensor:
    """Apple's, with its gradient filter off (it is not safe for catalogues)."""
    from cut_cross_entropy import linear_cross_entropy as cut

    return cut(hidden, table, action, reduction="none", filter_eps=None)


#: Most chunks of rows that Liger may cut a batch into. There are V / D of them where there are rows
#: enough, and each reads and writes gradients of all items: 4,096 of a million items 256 wide move
#: more than 10 TB a step.
LIGER_CHUNKS = 1024


def liger(hidden: Tensor, table: Tensor, action: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy; versions up to 0.8.1 ignore the rows' weights."""
    chunks = min(hidden.shape[0], -(-table.shape[0] // table.shape[1]))
    if chunks > LIGER_CHUNKS:
        raise ValueError(f"it cuts the rows into {chunks} chunks: seconds a step")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as fused

    return fused(hidden, table, action, reduction="none")


STEPS: dict[str, Callable[[Batch, float], Tensor]] = {
    "ours": ours,
    "ours, one op": ours_in_one_op,
    "topk + gather + cross-entropy": gathered(cross_entropy),
    "topk + gather + torch linear_cross_entropy": gathered(linear_cross_entropy),
    "topk + gather + compiled cross-entropy": gathered(compiled_cross_entropy),
    "topk + gather + cut-cross-entropy": gathered(cut_cross_entropy),
    "topk + gather + Liger": gathered(liger),
    "dense cross-entropy": dense(cross_entropy),
    "dense torch linear_cross_entropy": dense(linear_cross_entropy),
    "dense compiled cross-entropy": dense(compiled_cross_entropy),
    "dense cut-cross-entropy": dense(cut_cross_entropy),
    "dense Liger": dense(liger),
}


Encoder = Callable[[Tensor], Tensor]


def encode_kept(encoder: Encoder, batch: Batch, kappa: float) -> Tensor:
    """Only the kept rows go through the encoder: how many, the host must know."""
    kept = select(batch.quality, None, kappa, normalize=False)
    rows = kept.index[: int(kept.n_rows)]
    states, action = batch.hidden.index_select(0, rows), batch.action.index_select(0, rows)
    log_prob, _ = linear_log_prob(encoder(states), batch.table, action)
    return -(kept.weight[: len(rows)] * log_prob).sum() / kept.quota


def encode_places(encoder: Encoder, batch: Batch, kappa: float) -> Tensor:
    """The host knows no bound: as many rows as the batch has are gathered and encoded."""
    kept = select(batch.quality, None, kappa, normalize=False)
    states, action = (x.index_select(0, kept.index) for x in (batch.hidden, batch.action))
    log_prob, _ = linear_log_prob(encoder(states), batch.table, action, kept.n_rows)
    return -(kept.weight * log_prob).sum() / kept.quota


def encode_all(encoder: Encoder, batch: Batch, kappa: float) -> Tensor:
    """The batch goes through the encoder as it is, and the rest is one op."""
    return ours_in_one_op(batch._replace(hidden=encoder(batch.hidden)), kappa)


ENCODERS: dict[str, Callable[[Encoder, Batch, float], Tensor]] = {
    "select, encode kept rows, log-prob": encode_kept,
    "select, encode as many places as rows, log-prob": encode_places,
    "encode all rows, one op": encode_all,
}


def missing(name: str, device: str, dtype: torch.dtype = torch.float32) -> str | None:
    """Why a way cannot run here, or ``None``."""
    if "cut-" in name and dtype == torch.float32:
        return "cut-cross-entropy wants half precision"
    for part, package in (("cut-", "cut_cross_entropy"), ("Liger", "liger_kernel")):
        if part in name:
            if device == "cpu":
                return "needs a GPU"
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
    if "linear_cross_entropy" in name and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return "this torch has no linear_cross_entropy"
    return None


def launch_step(name: str, batch: Batch, kappa: float) -> Tensor:
    """Forward and backward, which a GPU may still be at; the gradients are left on the batch."""
    batch.hidden.grad = batch.table.grad = None
    loss = STEPS[name](batch, kappa)
    loss.backward()
    return loss.detach()


def run_step(name: str, batch: Batch, kappa: float) -> Tensor:
    """Forward and backward, finished; returns the loss."""
    loss = launch_step(name, batch, kappa)
    if batch.hidden.is_cuda:
        torch.cuda.synchronize()
    return loss


def rounds_within(budget: float, seconds: float, most: int = 20) -> int:
    """Rounds of so many seconds that fit a budget: ``most`` of them, and 3 at the least.

    >>> rounds_within(2.0, 0.01), rounds_within(2.0, 0.25), rounds_within(2.0, 9.0)
    (20, 8, 3)
    """
    return max(3, min(most, int(budget / seconds)))


def device_seconds(step: Callable[[], object], budget: float = 0.5) -> list[float]:
    """Seconds that a GPU works on each of some steps, the host's launches left out.

    As many steps as fit ``budget`` seconds, by the time of one more before them.

    The GPU sleeps first while the host launches, so that no kernel waits for the next launch.
    A step in which the host waits for the GPU defeats that: its gaps count, as in training.
    """
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    rounds = rounds_within(budget, time.perf_counter() - start)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(second) / 1e3 for first, second in pairwise(events)]


def gpu_memory(name: str, batch: Batch, kappa: float) -> int:
    """Bytes that one step adds at its highest, its gradients included."""
    batch.hidden.grad = batch.table.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run_step(name, batch, kappa)
    return torch.cuda.max_memory_allocated() - before


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def peak_memory(name: str, problem: Problem) -> int:
    """Bytes that one step adds at its highest: resident high-water mark minus what was before."""
    small = problem._replace(rows=64, items=256)
    run_step(name, make_batch(small), problem.kappa)  # libraries, threads, allocators
    batch = make_batch(problem)
    if name.endswith("compiled cross-entropy"):  # its shapes, before the measurement
        run_step(name, batch, problem.kappa)
        batch.hidden.grad = batch.table.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is resident now
    before = _memory("VmRSS")
    run_step(name, batch, problem.kappa)
    return _memory("VmHWM") - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    for size in ("rows", "items", "width"):
        parser.add_argument(f"--{size}", type=int, required=True)
    parser.add_argument("--kappa", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(peak_memory(given.name, Problem(given.rows, given.items, given.width, given.kappa)))  # noqa: T201
