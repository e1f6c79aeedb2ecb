"""Runs the catalogue benchmarks and writes results/kernels/<device>.json, .md and .png.

    python tests/benchmarks/report_kernels.py                  # everything
    python tests/benchmarks/report_kernels.py --only 200000    # a part; the rest stays as it was
    python tests/benchmarks/report_kernels.py --processor-time --only cpu   # on a busy machine

Times are medians of a step (selection, forward, backward) with the fastest and slowest round.
The last command counts the processor time of one thread, which other jobs hardly change, where
the wall clock of two threads that wait for each other would be theirs; its files are
``cpu_one_thread.*``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("rows", "items", "width", "kappa")
OURS, GATHER, DENSE = "ours", "topk + gather + cross-entropy", "dense cross-entropy"
Row = dict[str, Any]

#: What one H200 does: bfloat16 flops and bytes a second, both measured on such a card.
FLOPS, BANDWIDTH = 790e12, 4.3e12


def roofline(rows: int, items: int, width: int, kappa: float) -> float:
    """Seconds that forward + backward need at least on that card: 8 D flops a kept logit.

    >>> round(roofline(4096, 262_144, 256, 0.1) * 1e3, 3)
    0.279
    """
    kept = round(kappa * rows)
    flops = 8 * width * kept * items
    traffic = 2 * (3 * items * width + 3 * kept * width)  # the items twice in, once out; bfloat16
    return max(flops / FLOPS, traffic / BANDWIDTH)


def measure(only: str | None, processor_time: bool) -> list[Row]:
    """Runs pytest-benchmark; one row a way and problem."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "benchmark.json"
        test = Path(__file__).with_name("test_kernels_linear_log_prob.py")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "benchmark_only", str(test)]
        command += [f"--benchmark-json={out}", *(["-k", only] if only else [])]
        environment = dict(os.environ)
        if processor_time:
            environment["OMP_NUM_THREADS"] = "1"
            command.append("--benchmark-timer=time.process_time")
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        entries = json.loads(out.read_text())["benchmarks"]
    found = []
    for entry in entries:
        info, stats = entry["extra_info"], entry["stats"]
        times = {f"{name}_s": stats[name] for name in ("median", "min", "max")}
        found.append({**info, **times, "rounds": stats["rounds"]})
    return found


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """New rows in the place of old ones of the same way and sizes."""
    rows = {
        (row["name"], row.get("layers"), *(row[key] for key in SIZES)): row for row in [*old, *new]
    }

    def order(row: Row) -> tuple[Any, ...]:
        return (row.get("layers", 0), *(row[k] for k in SIZES), row["median_s"])

    return sorted(rows.values(), key=order)


def machine(device: str) -> dict[str, Any]:
    """What ran: processor or card, threads, versions."""
    info: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        import triton

        return {"gpu": torch.cuda.get_device_name(), "triton": triton.__version__, **info}
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return {"cpu": name, "cores": os.cpu_count(), "threads": min(2, os.cpu_count() or 1), **info}


def goals(rows: list[Row]) -> list[str]:
    """The goals of the CPU path and what was measured for each, at kappa = 0.1."""
    lines = []
    for items, width in ((50_000, 128), (200_000, 64)):
        found = {
            row["name"]: row
            for row in rows
            if (row["rows"], row["items"], row["width"], row["kappa"]) == (4096, items, width, 0.1)
        }
        if not {OURS, GATHER, DENSE} <= found.keys():
            continue

        def ratio(peer: str, key: str, found: dict[str, Row] = found) -> float:
            return found[peer][key] / found[OURS][key]

        def speed(peer: str) -> float:
            """By medians or by fastest rounds, whichever says less: others may use the machine."""
            return min(ratio(peer, "median_s"), ratio(peer, "min_s"))

        wanted = [
            ("faster than dense cross-entropy", speed(DENSE), 8),
            ("less memory than dense cross-entropy", ratio(DENSE, "peak_bytes"), 20),
            ("faster than topk + gather + cross-entropy", speed(GATHER), 1),
        ]
        if items == 200_000:
            wanted.append(
                ("less memory than topk + gather + cross-entropy", ratio(GATHER, "peak_bytes"), 4)
            )
        lines += [
            f"| V = {items:,}, D = {width}: times {what} | {goal} | {value:.1f} | "
            f"{'yes' if value >= goal else 'no'} |"
            for what, value, goal in wanted
        ]
    return lines


def too_large(rows: list[Row]) -> list[str]:
    """A line for each problem whose dense logits, softmax and gradient were more than fits."""
    dense = {tuple(row[k] for k in SIZES) for row in rows if row["name"] == DENSE}
    largest = max(
        (12 * row["rows"] * row["items"] for row in rows if row["name"] == DENSE), default=0
    )
    lines = []
    for sizes in dict.fromkeys(tuple(row[k] for k in SIZES) for row in rows):
        need = 12 * sizes[0] * sizes[1]
        if sizes not in dense and need > largest:
            lines.append(
                f"| {sizes[0]} | {sizes[1]:,} | {sizes[2]} | {sizes[3]:g} | {DENSE} | not run | "
                f"does not fit | {need / 1e6:,.0f} needed |"
            )
    return lines


def table(rows: list[Row]) -> list[str]:
    """One line a way and problem, in Markdown."""
    lines = [
        "| N | V | D | kappa | way | median ms | fastest to slowest | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"**{row['name']}**" if row["name"].startswith(OURS) else row["name"]
        lines.append(
            f"| {row['rows']} | {row['items']:,} | {row['width']} | {row['kappa']:g} | {name} | "
            f"{row['median_s'] * 1e3:.1f} | {row['min_s'] * 1e3:.1f} to {row['max_s'] * 1e3:.1f} | "
            f"{row['peak_bytes'] / 1e6:.1f} |"
        )
    return lines + too_large(rows)


def encoder_table(rows: list[Row]) -> list[str]:
    """Where the encoder stands, and what that costs."""
    lines = [
        "| hidden layers | kappa | way | median ms | fastest to slowest |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['layers']} | {row['kappa']:g} | {row['name']} | {row['median_s'] * 1e3:.1f} | "
        f"{row['min_s'] * 1e3:.1f} to {row['max_s'] * 1e3:.1f} |"
        for row in rows
    ]


def gpu_table(rows: list[Row]) -> list[str]:
    """The roofline of each problem beside what was measured, or that nothing was."""
    measured = {
        tuple(row[k] for k in SIZES): row["median_s"] for row in rows if row["name"] == OURS
    }
    lines = ["| N | V | D | kappa | roofline ms | ours ms |", "|---|---|---|---|---|---|"]
    for n, items in ((4096, 32_768), (4096, 262_144), (4096, 1_048_576), (65_536, 262_144)):
        for kappa in (1.0, 0.5, 0.1, 0.05):
            seconds = measured.get((n, items, 256, kappa))
            ours = "not measured" if seconds is None else f"{seconds * 1e3:.3f}"
            floor = roofline(n, items, 256, kappa) * 1e3
            lines.append(f"| {n} | {items:,} | 256 | {kappa:g} | {floor:.3f} | {ours} |")
    return lines


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
    loads = [row["load"] for row in rows if "load" in row]
    if loads:
        text += [
            f"Other jobs ran beside it: load average {min(loads):.1f} to {max(loads):.1f}.",
            "",
        ]
    if device == "cpu" and (lines := goals(rows)):
        text += ["| goal | wanted | measured | met |", "|---|---|---|---|", *lines, ""]
    encoders = [row for row in rows if "layers" in row]
    rows, every = [row for row in rows if "layers" not in row], rows
    text += [*table(rows), ""]
    if encoders:
        text += ["## Where the encoder stands", ""]
        text += ["N = 4096, V = 10,000, D = 64; hidden layers of 512.", ""]
        text += [*encoder_table(encoders), ""]
    text += ["## Roofline of one H200 (790 TFLOP/s bfloat16, 4.3 TB/s)", ""]
    text += [*gpu_table(rows if device == "cuda" else []), ""]
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
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
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
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "kernels")
    given = parser.parse_args()
    new = measure(given.only, given.processor_time)
    for device in dict.fromkeys(row["device"] for row in new):
        stem = f"{device}_one_thread" if given.processor_time else device
        path = given.out / f"{stem}.json"
        old = json.loads(path.read_text())["rows"] if path.is_file() else []
        write_report(given.out, stem, merged(old, [r for r in new if r["device"] == device]))


if __name__ == "__main__":
    main()
