"""Runs the catalogue benchmarks and writes results/kernels/<device>.json, .md and .png.

    python tests/benchmarks/report_kernels.py --only cuda      # on a GPU machine: the GPU alone
    python tests/benchmarks/report_kernels.py --only cpu
    python tests/benchmarks/report_kernels.py --only 200000    # a part; the rest stays as it was
    python tests/benchmarks/report_kernels.py --only "test_step and cuda-4096-262144"
    python tests/benchmarks/report_kernels.py --only cuda --seconds 400     # of a GPU that is lent
    python tests/benchmarks/report_kernels.py --processor-time --only cpu   # on a busy machine

Every way is first held against float64. Times are medians of a step (selection, forward,
backward) with the fastest and slowest round; on a GPU also what the device alone takes. A peer
that is not installed, or cannot do a problem, is left out. The last command counts the processor
time of one thread, which other jobs hardly change, where the wall clock of two threads that wait
for each other would be theirs; its files are ``cpu_one_thread.*``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from kernel_tables import (
    GPU_SIZES,
    OURS,
    SIZES,
    Row,
    encoder_table,
    goals,
    gpu_goals,
    gpu_table,
    roofline,
    seconds,
    short_table,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
#: Rows, items, width and kappa of the goals' middle.
TELLING = (4096, 262_144, 256, 0.1)
TESTS = ("test_kernels_linear_log_prob.py", "test_kernels_step.py")


def parts(only: str | None) -> list[str | None]:
    """What is measured and written one after the other, as ``pytest -k`` expressions.

    A GPU is often lent for minutes: the most telling rows come first, and what was measured before
    the time ran out is kept.

    >>> parts("cpu"), parts("cuda")[:2]
    (['cpu'], ['test_step and cuda-4096-262144-256-0.1-', 'cuda and not test_step'])
    """
    if only != "cuda":
        return [only]
    telling = f"cuda-{'-'.join(map(str, TELLING))}-"
    sizes = ("-".join(map(str, size)) for size in GPU_SIZES)
    rest = (f"test_step and cuda-{size}- and not {telling}" for size in sizes)
    return [f"test_step and {telling}", "cuda and not test_step", *rest]


def fingerprint(folder: Path = ROOT / "kernels") -> str:
    """Which kernels are measured: the first digits of a digest of their sources."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def measure(only: str | None, processor_time: bool, seconds: float | None = None) -> list[Row]:
    """Runs pytest-benchmark, no longer than so many seconds; one row a way and problem."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "benchmark.json"
        tests = [str(Path(__file__).parent / name) for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "benchmark_only", *tests]
        command += ["-p", "tests.benchmarks.unfinished"]
        command += [f"--benchmark-json={out}", *(["-k", only] if only else [])]
        environment = dict(os.environ)
        if processor_time:
            environment["OMP_NUM_THREADS"] = "1"
            command.append("--benchmark-timer=time.process_time")
        code = _ended(subprocess.Popen(command, cwd=ROOT, env=environment), seconds)
        if not (out.is_file() and out.stat().st_size):
            sys.stderr.write(f"nothing was measured: pytest ended with {code}\n")
            return []
        if code:
            sys.stderr.write("Some tests failed; what the others measured is written.\n")
        entries = json.loads(out.read_text())["benchmarks"]
    found = []
    for entry in entries:
        info, stats = entry["extra_info"], entry["stats"]
        if "device" not in info:  # it was timed, and what came after that failed
            continue
        times = {f"{name}_s": stats[name] for name in ("median", "min", "max")}
        found.append({**info, **times, "rounds": stats["rounds"], "kernels": fingerprint()})
    return found


def _ended(process: subprocess.Popen[bytes], seconds: float | None, grace: float = 20.0) -> int:
    """The process' exit code.

    After so many seconds it is interrupted, at which pytest writes what it has measured, and if
    that takes too long (a kernel that hangs cannot be interrupted) it is killed.
    """
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """New rows in the place of old ones of the same way and sizes."""
    rows = {
        (row["name"], row.get("kind"), row.get("layers"), *(row[key] for key in SIZES)): row
        for row in [*old, *new]
    }

    def order(row: Row) -> tuple[Any, ...]:
        kind = row.get("kind", ""), row.get("layers", 0)
        return (*kind, *(row[k] for k in SIZES), row["median_s"])

    return sorted(rows.values(), key=order)


def kept(path: Path, device: str) -> list[Row]:
    """Rows of an earlier report, if they were measured on this kind of processor or card."""
    if not path.is_file():
        return []
    old, name = json.loads(path.read_text()), "gpu" if device == "cuda" else "cpu"
    if old["machine"].get(name) != machine(device)[name]:
        sys.stderr.write(f"{path}: {old['machine'].get(name)} measured it, so it is replaced\n")
        return []
    rows: list[Row] = old["rows"]
    return rows


def machine(device: str) -> dict[str, Any]:
    """What ran: processor or card, threads, versions."""
    info: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        import triton

        card = torch.cuda.get_device_properties(0)
        size = f"{card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors"
        cuda = torch.version.cuda or torch.version.hip
        return {"gpu": card.name, "with": size, "cuda": cuda, "triton": triton.__version__, **info}
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
    name = names[0].split(":")[1].strip() if names else platform.machine()
    cores = os.cpu_count() or 1
    threads = int(os.environ.get("OMP_NUM_THREADS", min(2, cores)))
    return {"cpu": name, "cores": cores, "threads": threads, **info}


def write_report(folder: Path, stem: str, rows: list[Row]) -> None:
    """Writes the three files of one device, each through a temporary one."""
    device = stem.split("_")[0]
    info = machine(device)
    if stem != device:
        info |= {"threads": 1, "timer": "processor time"}
    text = [f"# One training step over a catalogue, {device.upper()}", ""]
    text += [", ".join(f"{key} {value}" for key, value in info.items()) + ".", ""]
    text += ["Selection, forward and backward; gradients of states and item embeddings. Peak"]
    text += ["memory is what a step adds, the gradient of the items included.", ""]
    others = [row for row in rows if row.get("kernels", fingerprint()) != fingerprint()]
    if others:
        text += [
            f"**{len(others)} of {len(rows)} rows were measured before the kernels became what"
        ]
        text += ["they are now**; of ours they tell what those of then did.", ""]
    loads = [row["load"] for row in rows if "load" in row]
    if loads:
        text += [
            f"Other jobs ran beside it: load average {min(loads):.1f} to {max(loads):.1f}.",
            "",
        ]
    if lines := goals(rows) if device == "cpu" else gpu_goals(rows):
        text += ["| goal | wanted | measured | met |", "|---|---|---|---|", *lines, ""]
    encoders = [row for row in rows if "layers" in row]
    kinds = {kind: [r for r in rows if r.get("kind") == kind] for kind in ("select", "step")}
    rows, every = [r for r in rows if "layers" not in r and "kind" not in r], rows
    text += [*table(rows), ""]
    if encoders:
        text += ["## Where the encoder stands", ""]
        text += ["N = 4096, V = 10,000, D = 64; hidden layers of 512.", ""]
        text += [*encoder_table(encoders), ""]
    if kinds["select"]:
        text += ["## Selection, kappa = 0.1", "", *short_table(kinds["select"]), ""]
    if kinds["step"]:
        text += ["## A whole step of DRPO: loss, backward, Adam; 10 -> 128 -> 128", ""]
        text += [*short_table(kinds["step"]), ""]
    if device == "cpu":
        text += ["## Roofline of one H200 (790 TFLOP/s bfloat16, 4.3 TB/s)", "", *gpu_table(), ""]
    else:
        text += ["The roofline is that of one H200 (790 TFLOP/s bfloat16, 4.3 TB/s): the larger of"]
        text += ["8 D flops a kept logit, and the items twice in and once out. Another card has"]
        text += ["another.", ""]
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / f"{stem}.json", json.dumps({"machine": info, "rows": every}, indent=1))
    _replace(folder / f"{stem}.md", "\n".join(text))
    if rows:
        temporary = folder / f".{stem}.png"
        plot(rows, temporary)
        temporary.replace(folder / f"{stem}.png")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def plot(rows: list[Row], path: Path) -> None:
    """Time against kappa, V and N, and memory against V, around the commonest sizes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    centre = rows[0] | {"rows": 4096, "items": 50_000, "width": 128, "kappa": 0.1}
    if not any(row["items"] == 50_000 for row in rows):
        centre |= {"items": 262_144, "width": 256}
    panels = (
        ("kappa", "median_s", "kappa", "step, s"),
        ("items", "median_s", "items V", "step, s"),
        ("rows", "median_s", "rows N", "step, s"),
        ("items", "peak_bytes", "items V", "peak memory, bytes"),
    )
    if any("device_s" in row for row in rows):
        rows = [r | {"share": roofline(*(r[key] for key in SIZES)) / seconds(r)} for r in rows]
        panels += (("kappa", "share", "kappa", "fraction of the H200's roofline"),)
    width = 4.25 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 4.2), layout="constrained")
    for axis, (x, y, label, title) in zip(axes, panels, strict=True):
        for name in dict.fromkeys(row["name"] for row in rows):
            fixed = [key for key in SIZES if key != x]
            points = sorted(
                (row[x], row[y])
                for row in rows
                if row["name"] == name and all(row[key] == centre[key] for key in fixed)
            )
            if points:
                style = {"linewidth": 2.5, "color": "black"} if name == OURS else {}
                if name.startswith(f"{OURS},"):
                    style = {"linestyle": "--", "color": "black"}
                axis.plot(*zip(*points, strict=True), marker="o", label=name, **style)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel=title)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120, format="png")


def main() -> None:
    """Measures, merges with what is there, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a pytest -k expression")
    parser.add_argument("--processor-time", action="store_true", help="of one thread")
    parser.add_argument("--seconds", type=float, help="end by then with what has been measured")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "kernels")
    given = parser.parse_args()
    measured, start = False, time.monotonic()
    for part in parts(given.only):
        left = None if given.seconds is None else given.seconds + start - time.monotonic()
        if left is not None and left <= 0:
            break
        new = measure(part, given.processor_time, left)
        measured |= bool(new)
        for device in dict.fromkeys(row["device"] for row in new):
            stem = f"{device}_one_thread" if given.processor_time else device
            path = given.out / f"{stem}.json"
            rows = [row for row in new if row["device"] == device]
            write_report(given.out, stem, merged(kept(path, device), rows))
    if not measured:
        sys.exit("nothing was measured")


if __name__ == "__main__":
    main()
