"""The tool that times what thresholds decide between, with small sizes and without a clock."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from tests.benchmarks import kernel_thresholds as thresholds


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", thresholds.DECISIONS)
def test_every_way_runs_and_today_s_is_marked(name, monkeypatch):
    def once(run, budget):
        run()
        return [1e-6]

    _, ways = thresholds.DECISIONS[name]
    small = {"order": {"items": 300}, "merge": {"items": 300}}.get(name, {})
    monkeypatch.setattr(thresholds, "device_seconds", once)
    monkeypatch.setitem(
        thresholds.DECISIONS, name, ((40,), lambda n, device: ways(n, device, **small))
    )
    header, rule, row = thresholds.lines(name, "cpu")
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| 40 | ")
    assert row.count("**1.0**") == 1
