"""Shared rules of the test suite."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if "OMP_NUM_THREADS" not in os.environ:  # on shared cores spinning threads cost tenfold
    torch.set_num_threads(min(2, os.cpu_count() or 1))

with contextlib.suppress(ImportError):  # a machine with a GPU may have the bare necessities
    from hypothesis import settings

    settings.register_profile("no deadline", deadline=None)  # machines are busy at times
    settings.load_profile("no deadline")

#: Real logs lie beside the checkout, or where the environment says; tests that need them skip
#: where they are absent (a user's machine), and the same code is tested on generated logs there.
DATA_ROOT = Path(
    os.environ.get("TORCHRL_DRPO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # one rule in one place: a gpu test is skipped, never lost
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Steps of a tenth of a millisecond each: more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def real_logs() -> Path:
    """The folder with the real logs, or a skip."""
    if not DATA_ROOT.is_dir():
        pytest.skip(f"no real logs in {DATA_ROOT}; set TORCHRL_DRPO_DATA")
    return DATA_ROOT


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
