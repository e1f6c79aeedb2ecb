"""Verdicts of claims with several parts."""

from __future__ import annotations

from torchrl_drpo.reproduction.document.parts import verdict, verdict_of


def test_a_verdict_counts_its_parts():
    assert verdict([]) == "not tested"
    assert verdict([True, True]) == "held"
    assert verdict([False, True]) == "held in part"
    assert verdict([False]) == "not held"
    assert [verdict_of(held, 3) for held in (3, 2, 0)] == ["held", "held in part", "not held"]
