"""One suite for every implementation of an op: ATen, Triton's interpreter, and a GPU."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import backend
from torchrl_drpo_kernels._common import INTERPRETED


@pytest.fixture(
    params=[
        "aten",
        pytest.param("interpreter", marks=pytest.mark.interpreter),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the op's tensors go; that the op takes the wanted implementation there is checked."""
    device = torch.device("cuda" if request.param == "cuda" else "cpu")
    if request.param == "interpreter" and not INTERPRETED:
        pytest.fail("interpreter tests need TRITON_INTERPRET=1 before the first import")
    wanted = "aten" if request.param == "aten" else "triton"
    assert backend(torch.zeros(1, device=device)) == wanted
    return device


@pytest.fixture
def interpreted() -> None:
    """For tests of a launcher itself, which has no ATen counterpart."""
    if not INTERPRETED:
        pytest.fail("interpreter tests need TRITON_INTERPRET=1 before the first import")
