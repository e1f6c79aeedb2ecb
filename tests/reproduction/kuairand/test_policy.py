"""The softmax in bfloat16 against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo import CatalogueCategorical
from torchrl_drpo.reproduction.kuairand.policy import (
    HalfCatalogueCategorical,
    fast_precision,
    make_actor,
)


def _log_prob_and_gradients(kind: type, temperature: float, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    values = [draw(32, 16), draw(500, 16) * 0.5, draw(500)]
    inputs = [value.to(dtype).requires_grad_() for value in values]
    action = torch.randint(500, (32,), generator=generator)
    weight = draw(32).to(dtype)
    log_prob = kind(*inputs, temperature).log_prob(action)
    (weight * log_prob).sum().backward()
    return [log_prob.detach(), *(value.grad for value in inputs)]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_is_the_softmax_to_half_precision(temperature: float) -> None:
    exact = _log_prob_and_gradients(CatalogueCategorical, temperature, torch.float64)
    half = _log_prob_and_gradients(HalfCatalogueCategorical, temperature, torch.float32)
    for one, other in zip(exact, half, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.01 * one.norm()


def test_half_precision_is_of_training_only() -> None:
    actor = make_actor("bfloat16", "cpu", num_items=9, history=2, context_sizes=(3,))
    assert {p.dtype for p in actor.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="precision must be"):
        make_actor("float16", "cpu", num_items=9)


def test_half_precision_is_for_cpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_precision("cuda") == "float32"  # asked for by name alone: no device is touched
    for has, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert fast_precision("cpu") == precision
    half = make_actor("auto", "cpu", num_items=9, history=2, context_sizes=(3,))
    observation = {"history": torch.zeros(1, 2).long(), "context": torch.zeros(1, 1).long()}
    rows = TensorDict({"observation": observation}, [1])
    assert type(half.get_dist(rows)) is CatalogueCategorical
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a torch that cannot tell
    assert fast_precision("cpu") == "float32"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_the_cpu_is_believed() -> None:
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line), ""
    )
    assert (fast_precision("cpu") == "bfloat16") == ("avx512_bf16" in flags.split())
