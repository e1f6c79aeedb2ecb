"""``drpo doctor``: it finds what is missing, and an op that is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from torchrl_drpo import cli
from torchrl_drpo.pipeline.doctor import checks, command
from torchrl_drpo.pipeline.doctor.packages import installed_packages


def test_this_environment_is_well(capsys) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in found["checks"]} == set(checks.CHECKS)
    assert all(each["passed"] for each in found["checks"])
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "linear_log_prob" in shown
    assert f"torch {torch.__version__}" in shown


def test_what_is_missing_or_of_another_version_is_told_with_the_mend(monkeypatch) -> None:
    asked = ["torch>=99", "nosuchthing>=1; extra == 'faiss'", "torchrl-drpo[data]; extra == 'cli'"]
    found = installed_packages([*asked, "numpy", "pytest; extra == 'test'"])
    assert [(each.name, each.extra, each.fits) for each in found] == [
        ("torch", None, False),
        ("nosuchthing", "faiss", False),
        ("numpy", None, True),
    ]
    said = command.advice(found, [])
    assert any("pip install 'torch>=99'" in line and "is installed" in line for line in said)
    assert any("pip install 'torchrl-drpo[faiss]' (nosuchthing)" in line for line in said)
    monkeypatch.setattr(command, "installed_packages", lambda: found)
    monkeypatch.setattr(command, "run_checks", lambda devices: [])
    assert cli.main(["doctor", "--json"]) == 1


@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_an_op_that_is_wrong_or_raises_is_named(monkeypatch, capsys, wrong: float) -> None:
    real = checks.linear_log_prob

    def off(hidden, *rest):
        if wrong != wrong:
            raise RuntimeError("no kernel image is available")
        log_prob, lse = real(hidden, *rest)
        return log_prob + wrong, lse

    monkeypatch.setattr(checks, "linear_log_prob", off)
    found = {each.name: each for each in checks.run_checks(["cpu"])}
    assert not found["linear_log_prob"].passed
    assert found["select"].passed
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "linear_log_prob on cpu" in said
    assert ("no kernel image" in said) == (wrong != wrong)
