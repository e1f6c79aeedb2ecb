"""A pytest plugin: of a run that was interrupted, pytest-benchmark writes what had been measured.

Without it the benchmark that was under way, of which there is no round yet, ends the writing in an
error, and nothing is left of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(hookwrapper=True, optionalhook=True)
def pytest_benchmark_generate_json(benchmarks: list[Any]) -> Iterator[None]:
    """Leaves out what has no round."""
    benchmarks[:] = [one for one in benchmarks if one.stats.data]
    yield
