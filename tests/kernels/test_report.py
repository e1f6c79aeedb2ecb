"""The benchmarks' report from made-up measurements: what a GPU machine would get to read."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib")

import torch

from tests.benchmarks import catalogue_steps, kernel_tables
from tests.benchmarks import report_kernels as report

SIZES = {"rows": 4096, "items": 262_144, "width": 256, "kappa": 0.1}
FLOOR = 8 * 256 * 410 * 262_144 / 790e12  # seconds: bound by the flops


def row(name, seconds, **more):
    times = {"median_s": 2 * seconds, "min_s": seconds, "max_s": 3 * seconds, "device_s": seconds}
    return {
        "name": name,
        "device": "cuda",
        "peak_bytes": 1e8,
        "rounds": 20,
        **SIZES,
        **times,
    } | more


ROWS = [
    row("ours", FLOOR / 0.5),
    row("ours, one op", FLOOR / 0.8),
    row("topk + gather + Liger", 2 * FLOOR),
    row("topk + gather + cross-entropy", 3 * FLOOR),
    row("dense cut-cross-entropy", 5 * FLOOR),
    row("ours", 30e-6, kind="select", rows=1_000_000, items=0, width=0),
    row("topk + moments", 50e-6, kind="select", rows=1_000_000, items=0, width=0),
    row("path='auto', CUDA graph", 100e-6, kind="step", rows=320, items=0, width=0),
]


@pytest.fixture(autouse=True)
def card(monkeypatch):
    monkeypatch.setattr(report, "machine", lambda device: {"gpu": "a card", "triton": "3.9"})


def test_a_gpu_report_says_what_met_the_goals_and_on_which_card(tmp_path):
    report.write_report(tmp_path, "cuda", ROWS)
    text = (tmp_path / "cuda.md").read_text()
    assert text.startswith("# One training step over a catalogue, CUDA\n\ngpu a card, triton 3.9.")
    where = "| N = 4,096, V = 262,144, D = 256, kappa = 0.1:"
    assert f"{where} share of the H200's roofline | 0.6 | 0.80 | yes |" in text
    assert f"{where} times faster than topk + gather + Liger | 1.3 | 1.60 | yes |" in text
    assert f"{where} times faster than dense cut-cross-entropy | 8.0 | 4.00 | no |" in text
    assert "| select of 1,000,000 rows | 40 us | 30.00 us | yes |" in text
    assert "| a whole step of 320 rows as a CUDA graph | captured | 200.00 us | yes |" in text
    assert "| **ours** | 1.1 | 0.6 to 1.7 | 100.0 | 0.557 | 50% |" in text
    assert "| 1,000,000 | topk + moments | 100.0 | 50.0 to 150.0 | 50.0 |" in text
    saved = json.loads((tmp_path / "cuda.json").read_text())
    assert saved["machine"]["gpu"] == "a card"
    assert saved["rows"] == ROWS
    assert (tmp_path / "cuda.png").stat().st_size > 10_000


def test_a_part_that_is_measured_anew_takes_the_old_one_s_place():
    new = [row("ours", 1.0), row("ours", 1.0, kind="select", rows=320, items=0, width=0)]
    rows = report.merged(ROWS, new)
    assert len(rows) == len(ROWS) + 1
    assert [r["device_s"] for r in rows if r["name"] == "ours" and r["items"]] == [1.0]


def test_rows_of_another_card_are_not_mixed_in(tmp_path, capsys, monkeypatch):
    report.write_report(tmp_path, "cuda", ROWS)
    assert report.kept(tmp_path / "cuda.json", "cuda") == ROWS
    assert report.kept(tmp_path / "cpu.json", "cpu") == []
    monkeypatch.setattr(report, "machine", lambda device: {"gpu": "another card"})
    assert report.kept(tmp_path / "cuda.json", "cuda") == []
    assert "a card measured it, so it is replaced" in capsys.readouterr().err


def test_a_cpu_report_has_no_device_times(tmp_path):
    rows = [
        {key: value for key, value in r.items() if key != "device_s"} | {"device": "cpu"}
        for r in ROWS
    ]
    report.write_report(tmp_path, "cpu", rows)
    text = (tmp_path / "cpu.md").read_text()
    assert "share of roofline" not in text
    assert "| 4096 | 262,144 | 256 | 0.1 | 0.279 | not here |" in text


def test_the_parts_of_a_gpu_run_hold_every_problem_once():
    first, second, *rest = report.parts("cuda")
    assert second == "cuda and not test_step"

    def holds(part, name):
        return all(
            (word.removeprefix("not ") in name) != word.startswith("not ")
            for word in part.split(" and ")
        )

    for size in report.GPU_SIZES:
        for kappa in kernel_tables.GPU_KAPPAS:
            name = f"test_step[cuda-{'-'.join(map(str, size))}-{kappa:g}-ours]"
            assert sum(holds(part, name) for part in (first, *rest)) == 1, name
    assert report.parts("cpu") == ["cpu"]
    assert report.parts(None) == [None]


def test_rows_of_other_kernels_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "fingerprint", lambda: "now")
    report.write_report(tmp_path, "cuda", [row("ours", 1.0, kernels="now"), row("Liger", 1.0)])
    assert "were measured before" not in (tmp_path / "cuda.md").read_text()
    report.write_report(tmp_path, "cuda", [ROWS[1], row("ours", 1.0, kernels="then")])
    assert "**1 of 2 rows were measured before" in (tmp_path / "cuda.md").read_text()


def test_what_a_run_has_measured_is_written_part_by_part(tmp_path, monkeypatch):
    seen = []

    def measure(part, processor_time, seconds):
        seen.append(part)
        if len(seen) == 2:
            return []  # everything in it was skipped
        if len(seen) == 4:
            raise KeyboardInterrupt  # the machine is taken away
        return [ROWS[5] if len(seen) == 1 else ROWS[0]]

    monkeypatch.setattr(report, "measure", measure)
    monkeypatch.setattr("sys.argv", ["report", "--only", "cuda", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        report.main()
    assert seen == report.parts("cuda")[:4]
    assert len(json.loads((tmp_path / "cuda.json").read_text())["rows"]) == 2


SLOW = """
import pytest, time

@pytest.mark.benchmark_only
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_step(benchmark, turns):
    benchmark.pedantic(time.sleep, args=(0.001 if turns < 3 else 600,), rounds=3)
    benchmark.extra_info["device"] = "cuda"
"""


@pytest.mark.slow
def test_when_the_time_is_over_what_was_measured_until_then_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("pytest_benchmark")
    (tmp_path / "test_slow.py").write_text(SLOW)
    monkeypatch.setattr(report, "TESTS", (str(tmp_path / "test_slow.py"),))
    assert len(report.measure(None, False, 20.0)) == 2


def test_a_run_without_time_for_another_part_begins_none(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(report, "measure", lambda *arguments: given.append(arguments) or [ROWS[0]])
    monkeypatch.setattr(report.time, "monotonic", iter([0.0, 1.0, 95.0, 100.0]).__next__)
    options = ["--only", "cuda", "--seconds", "100", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["report", *options])
    report.main()
    assert [left for *_, left in given] == [99.0, 5.0]


def test_slow_steps_get_fewer_rounds():
    assert [catalogue_steps.rounds_within(2.0, s) for s in (0.01, 0.25, 9.0)] == [20, 8, 3]


def test_liger_is_left_out_where_it_walks_the_catalogue_too_often():
    with torch.device("meta"):
        hidden, table = torch.empty(4096, 256), torch.empty(2**20, 256)
    with pytest.raises(ValueError, match="cuts the rows into 4096 chunks"):
        catalogue_steps.liger(hidden, table, torch.zeros(4096))
