"""Tables and goals of the kernel benchmarks, in Markdown; ``report_kernels.py`` writes them."""

from __future__ import annotations

from typing import Any

SIZES = ("rows", "items", "width", "kappa")
OURS, GATHER, DENSE = "ours", "topk + gather + cross-entropy", "dense cross-entropy"
Row = dict[str, Any]

#: Rows, items and width of the GPU's grid, each at these kappas: the table of floors.
GPU_SIZES = (
    (4096, 32_768, 256),
    (4096, 262_144, 256),
    (4096, 1_048_576, 256),
    (65_536, 262_144, 256),
    (65_536, 262_144, 1024),
)
GPU_KAPPAS = (1.0, 0.5, 0.1, 0.05)

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


def seconds(row: Row) -> float:
    """What a way is judged by: the device's time where it was taken."""
    return row.get("device_s", row["median_s"])


def gpu_goals(rows: list[Row]) -> list[str]:
    """The goals on a GPU and what was measured for each."""
    lines = []

    def line(what: str, goal: str, value: float, met: bool, unit: str = "") -> None:
        lines.append(f"| {what} | {goal} | {value:.2f}{unit} | {'yes' if met else 'no'} |")

    problems = dict.fromkeys(tuple(r[k] for k in SIZES) for r in rows if not r.get("kind"))
    for sizes in problems:
        found = {
            r["name"]: seconds(r)
            for r in rows
            if not r.get("kind") and tuple(r[k] for k in SIZES) == sizes
        }
        if OURS not in found:
            continue
        where = f"N = {sizes[0]:,}, V = {sizes[1]:,}, D = {sizes[2]}, kappa = {sizes[3]:g}"
        mine = min(value for name, value in found.items() if name.startswith(OURS))
        share = roofline(*sizes) / mine
        line(f"{where}: share of the H200's roofline", "0.6", share, share >= 0.6)
        if sizes[3] != 0.1:
            continue
        for kind, goal in (("topk + gather", 1.3), ("dense", 8.0)):
            peers = {name: value for name, value in found.items() if name.startswith(kind)}
            if peers:
                best = min(peers, key=peers.__getitem__)
                ratio = peers[best] / mine
                line(f"{where}: times faster than {best}", f"{goal}", ratio, ratio >= goal)
    for row in rows:
        if (row.get("kind"), row["name"], row["rows"]) == ("select", OURS, 1_000_000):
            value = seconds(row) * 1e6
            line("select of 1,000,000 rows", "40 us", value, value < 40, " us")
        if row.get("kind") == "step" and "graph" in row["name"]:
            value = row["median_s"] * 1e6
            line("a whole step of 320 rows as a CUDA graph", "captured", value, True, " us")
    return lines


def too_large(rows: list[Row]) -> list[str]:
    """A line for each problem whose dense logits, softmax and gradient were more than fits."""
    dense = {tuple(row[k] for k in SIZES) for row in rows if row["name"] == DENSE}
    if not dense:
        return []  # a part of the grid: nothing is known of the dense way
    largest = max(12 * row["rows"] * row["items"] for row in rows if row["name"] == DENSE)
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
    """One line a way and problem, in Markdown; on a GPU also its own time and the roofline."""
    gpu = any("device_s" in row for row in rows)
    lines = [
        "| N | V | D | kappa | way | median ms | fastest to slowest | peak MB |"
        + (" device ms | share of roofline |" if gpu else ""),
        "|---" * (10 if gpu else 8) + "|",
    ]
    for row in rows:
        name = f"**{row['name']}**" if row["name"].startswith(OURS) else row["name"]
        line = (
            f"| {row['rows']} | {row['items']:,} | {row['width']} | {row['kappa']:g} | {name} | "
            f"{row['median_s'] * 1e3:.1f} | {row['min_s'] * 1e3:.1f} to {row['max_s'] * 1e3:.1f} | "
            f"{row['peak_bytes'] / 1e6:.1f} |"
        )
        if gpu:
            share = roofline(*(row[key] for key in SIZES)) / seconds(row)
            line += f" {seconds(row) * 1e3:.3f} | {share:.0%} |"
        lines.append(line)
    return lines + too_large(rows)


def short_table(rows: list[Row]) -> list[str]:
    """Selections and whole steps: microseconds."""
    lines = [
        "| N | way | median us | fastest to slowest | device us |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        device = f"{row['device_s'] * 1e6:.1f}" if "device_s" in row else ""
        lines.append(
            f"| {row['rows']:,} | {row['name']} | {row['median_s'] * 1e6:.1f} | "
            f"{row['min_s'] * 1e6:.1f} to {row['max_s'] * 1e6:.1f} | {device} |"
        )
    return lines


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


def gpu_table() -> list[str]:
    """The roofline of each problem of the GPU's grid, for where nothing was measured."""
    lines = ["| N | V | D | kappa | roofline ms | measured |", "|---|---|---|---|---|---|"]
    for n, items, width in GPU_SIZES:
        for kappa in GPU_KAPPAS:
            floor = roofline(n, items, width, kappa) * 1e3
            lines.append(f"| {n} | {items:,} | {width} | {kappa:g} | {floor:.3f} | not here |")
    return lines
