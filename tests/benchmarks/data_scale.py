"""Conversion and sampling at scale, measured: python tests/benchmarks/data_scale.py --help.

    python tests/benchmarks/data_scale.py generate --rows 50_000_000 --folder log50
    python tests/benchmarks/data_scale.py convert  --folder log50 --out results/data
    python tests/benchmarks/data_scale.py duckdb   --folder log50 --out results/data
    python tests/benchmarks/data_scale.py sample   --folder log50 --out results/data
    python tests/benchmarks/data_scale.py report   --out results/data

``duckdb`` (``pip install duckdb``) does the plain part of a conversion and no more: dense numbers
for users and items, rows in the order of user and time. It runs beside a conversion of the same
files, turn and turn about, so that a busy machine is busy for both. Each step writes its figures
into ``<out>/scale.json``, under the number of rows; the report makes a page of them and of
``data_quantile.py``'s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

FILES, DAYS, DAY_MS = 10, 30, 86_400_000


def generate(folder: Path, rows: int) -> None:
    """A log in time order: one item for two users, users and items by heavy-tailed popularity."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    users, items = rows // 25, rows // 50  # 2 million and 1 million at 50 million rows
    rng = np.random.default_rng(0)
    item_name, user_name = rng.permutation(items), rng.permutation(users)
    for number in range(FILES):
        count = rows // FILES
        start, span = number * DAYS * DAY_MS // FILES, DAYS * DAY_MS // FILES
        duration = rng.lognormal(10, 1, count).astype(np.int32)
        everyone = number == 0  # each user and item occurs
        user = user_name[(users * rng.random(count) ** 1.5).astype(np.int64)]
        item = item_name[(items * rng.random(count) ** 3).astype(np.int64)]
        if everyone:
            user[:users], item[:items] = user_name[:count], item_name[:count]
        table = pa.table(
            {
                "user_id": user + 1_000_000,
                "item_id": item,
                "time_ms": np.sort(rng.integers(start, start + span, count)),
                "play_ms": (duration * rng.random(count) ** 2).astype(np.int32),
                "duration_ms": duration,
                "click": (rng.random(count) < 0.2).astype(np.int8),
                "tab": rng.integers(0, 15, count).astype(np.int8),
            }
        )
        pq.write_table(table, folder / f"part-{number:02d}.parquet", row_group_size=1 << 20)
    print(f"{rows} rows, {users} users, {items} items in {folder}")  # noqa: T201


def schema():
    """Duration-aware percentile, a context, a label, duplicates dropped: nothing is left out."""
    from torchrl_drpo.data import LogSchema, Percentile

    return LogSchema(
        user="user_id", item="item_id", time="time_ms", time_unit="ms", context=("tab",),
        labels=("click",),
        quality=Percentile("play_ms", by=("duration_bucket",), duration="duration_ms / 1000"),
    )  # fmt: skip


def convert(folder: Path, workers: int = 1) -> dict[str, object]:
    root = folder / "converted"
    shutil.rmtree(root, ignore_errors=True)
    figures = watched("convert-here", folder, workers)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    parquet = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    return figures | {"converted_MiB": size >> 20, "parquet_MiB": parquet >> 20}


def watched(step: str, folder: Path, workers: int = 1) -> dict[str, object]:
    """A step in a process of its own, whose anonymous memory is read twenty times a second.

    Workers' memory is not in it; their processor time is.
    """
    command = [sys.executable, __file__, step, "--folder", str(folder), "--workers", str(workers)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"RssAnon": 0, "VmRSS": 0}

    def watch() -> None:
        while child.poll() is None:
            try:
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            except OSError:
                return
            for line in lines:
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    before = os.times()
    watcher.start()
    output, _ = child.communicate()
    watcher.join()
    after = os.times()
    if child.returncode:
        raise SystemExit(child.returncode)
    used = after.children_user + after.children_system
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used - before.children_user - before.children_system, 1),
        "peak_rss_anon_MiB": peak["RssAnon"] >> 10,
        "peak_rss_MiB": peak["VmRSS"] >> 10,
        **json.loads(output.splitlines()[-1]),
    }


def beside_duckdb(folder: Path, rounds: int = 2) -> dict[str, object]:
    """Both, turn and turn about; the faster of each."""
    ran: dict[str, list[dict]] = {"convert": [], "duckdb": []}
    for _ in range(rounds):
        ran["convert"].append(convert(folder))
        ran["duckdb"].append(watched("duckdb-here", folder))
    return {name: min(each, key=lambda run: run["cpu_seconds"]) for name, each in ran.items()}


def duckdb_here(folder: Path, _: int) -> None:
    """Dense ids and rows by user and time, in a database on the disk, within a GiB of memory."""
    import duckdb

    for path in folder.glob("plain.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    database = duckdb.connect(str(folder / "plain.db"))
    database.execute(f"SET memory_limit = '1GiB'; SET temp_directory = '{folder / 'plain.tmp'}'")
    database.execute(f"CREATE VIEW log AS FROM '{folder / '*.parquet'}'")
    for name in ("user", "item"):
        database.execute(
            f"CREATE TABLE {name}s AS SELECT {name}_id, row_number() OVER (ORDER BY {name}_id) - 1 "
            f"AS {name} FROM (SELECT DISTINCT {name}_id FROM log)"
        )
    database.execute(
        "CREATE TABLE rows AS SELECT user, item, time_ms, play_ms, duration_ms, click, tab "
        "FROM log JOIN users USING (user_id) JOIN items USING (item_id) ORDER BY user, time_ms"
    )
    count = database.execute("SELECT count(*) FROM rows").fetchall()[0][0]
    database.close()
    size = sum(path.stat().st_size for path in folder.glob("plain.*") if path.is_file())
    facts = {"rows": count, "stored_MiB": size >> 20, "version": duckdb.__version__}
    print(json.dumps(facts))  # noqa: T201


def convert_here(folder: Path, workers: int) -> None:
    from torchrl_drpo.data import convert_log

    stages: dict[str, float] = {}
    began = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        stages[stage] = round(time.perf_counter() - began, 1)

    report = convert_log(
        str(folder / "*.parquet"), folder / "converted", schema(), test_days=3, progress=progress,
        executor=workers,
    )  # fmt: skip
    spent = os.times()
    facts = {
        "rows": report.rows, "users": report.users, "items": report.items,
        "processor_seconds": round(spent.user + spent.system, 1),
        "workers_processor_seconds": round(spent.children_user + spent.children_system, 1),
    }  # fmt: skip
    print(json.dumps({"stage_ends_s": stages, **facts}))  # noqa: T201


def sample(folder: Path, batch: int = 4096, repeats: int = 200) -> dict[str, object]:
    """Milliseconds a sample: median and 95th percentile, after as many to warm up."""
    import torch

    from torchrl_drpo.data import QuantileSampler, RecReplayBuffer, TrajectorySampler, WindowUnit

    torch.set_num_threads(2)
    root = folder / "converted"
    cases = {
        "transitions": {"history": 0},
        "histories of 50": {"history": 50},
        "histories of 50, training part": {"history": 50, "part": "train"},
        "windows of 8 steps x 512 trajectories": {
            "history": 0, "sampler": TrajectorySampler(), "sample_unit": WindowUnit(8),
        },
        "quantile sampler, kappa .1": {"history": 0, "sampler": QuantileSampler(0.1)},
        "quantile sampler, kappa .1, no replacement": {
            "history": 0, "sampler": QuantileSampler(0.1, without_replacement=True),
        },
    }  # fmt: skip
    out: dict[str, object] = {}
    for name, options in cases.items():
        size = 512 if "windows" in name else batch
        buffer = RecReplayBuffer.open(
            root, batch_size=size, generator=torch.Generator().manual_seed(0), **options
        )
        began = time.perf_counter()
        buffer.sample()
        first = time.perf_counter() - began
        took = []
        for _ in range(2 * repeats):
            began = time.perf_counter()
            buffer.sample()
            took.append(1e3 * (time.perf_counter() - began))
        took = took[repeats:]
        out[name] = {
            "median_ms": round(statistics.median(took), 2),
            "p95_ms": round(float(np.percentile(took, 95)), 2),
            "first_s": round(first, 2),
        }
        print(name, out[name], flush=True)  # noqa: T201
    return out


def report(out: Path) -> None:
    """Writes ``<out>/README.md`` from the figures there."""
    figures = json.loads((out / "scale.json").read_text())
    by_rows = {int(rows): steps for rows, steps in sorted(figures["rows"].items(), key=_number)}
    lines = ["# Logs at scale, as measured", "", f"Machine: {figures['machine']}. Made by", ""]
    lines += [f"    {line.strip()}" for line in (__doc__ or "").splitlines() if "--folder" in line]
    lines += ["    python tests/benchmarks/data_scale.py report   --out results/data"]
    lines += ["    python tests/benchmarks/data_quantile.py --weighting uniform|linear", ""]
    lines += ["## Conversion", "", "| rows | users | items | seconds | peak RssAnon | on disk |"]
    lines += ["|---|---|---|---|---|---|"]
    for rows, steps in by_rows.items():
        c = steps["convert"]
        lines.append(
            f"| {rows:,} | {c['users']:,} | {c['items']:,} | {c['seconds']:.0f} "
            f"| {c['peak_rss_anon_MiB']} MiB | {c['converted_MiB']} MiB |"
        )
    lines += _older({rows: steps["convert"] for rows, steps in by_rows.items()})
    lines += _beside_duckdb(by_rows)
    lines += ["", "## Sampling 4,096 rows (windows: 512 x 8), median and 95th percentile in ms", ""]
    lines += ["| | " + " | ".join(f"{rows:,} rows" for rows in by_rows) + " |"]
    lines += ["|---" * (len(by_rows) + 1) + "|"]
    for case in next(iter(by_rows.values()))["sample"]:
        cells = [steps["sample"][case] for steps in by_rows.values()]
        shown = " | ".join(f"{c['median_ms']:.2f}, {c['p95_ms']:.2f}" for c in cells)
        lines.append(f"| {case} | {shown} |")
    lines += [
        "",
        "Each draw costs the same number of operations at every size; what grows a little",
    ]
    lines += ["is the cost of memory beyond the caches. Figures are medians over 200 samples of"]
    lines += ["a warm buffer on a machine that other processes used as well."]
    for path in sorted(out.glob("quantile_*.json")):
        lines += _quantile_table(path)
    (out / "README.md").write_text("\n".join(lines) + "\n")


def _beside_duckdb(by_rows: dict[int, dict]) -> list[str]:
    measured = {rows: steps["duckdb"] for rows, steps in by_rows.items() if "duckdb" in steps}
    if not measured:
        return []
    version = next(iter(measured.values()))["duckdb"]["version"]
    lines = ["", "## What a conversion buys, beside duckdb", ""]
    lines += [
        f"duckdb {version} on the same files, turn and turn about, does the plain part alone:"
    ]
    lines += ["numbers for users and items, rows by user and time. A conversion also drops exact"]
    lines += [
        "duplicates, holds days out, fits percentiles of quality on the others alone, ends each"
    ]
    lines += ["history before its own instant, checks every row, digests every file, and goes on"]
    lines += ["where it was killed; its columns are mapped by a buffer as they lie there. Starting"]
    lines += [
        "Python and torch is included. Other processes used the machine: by the clock both took"
    ]
    lines += ["longer than they need, processor seconds are what is to be compared.", ""]
    lines += ["| rows | | seconds | processor seconds | peak RssAnon | on disk |", "|---" * 6 + "|"]
    for rows, both in measured.items():
        for name, size in (("convert", "converted_MiB"), ("duckdb", "stored_MiB")):
            c = both[name]
            lines.append(
                f"| {rows:,} | {name} | {c['seconds']:.0f} | {c['cpu_seconds']:.0f} "
                f"| {c['peak_rss_anon_MiB']} MiB | {c[size]} MiB |"
            )
    return lines + _older({rows: both["convert"] for rows, both in measured.items()})


def _older(measured: dict[int, dict]) -> list[str]:
    """Which rows were measured before a conversion was made of units, and told their seconds."""
    older = [f"{rows:,}" for rows, c in measured.items() if "processor_seconds" not in c]
    if not older:
        return []
    return [
        "",
        f"Measured before conversions were made of units that workers share: {'; '.join(older)}.",
    ]


def _number(entry: tuple[str, object]) -> int:
    return int(entry[0])


def _quantile_table(path: Path) -> list[str]:
    figures = json.loads(path.read_text())
    if "table" not in figures:
        return []
    weights = path.stem.split("_")[1]
    lines = ["", f"## QuantileSampler against filtering in the batch, {weights} weights", ""]
    lines += [f"{figures['seeds']} seeds, {figures['steps']:,} steps, kappa .1, 95% intervals.", ""]
    lines += ["| | retrieved reward | difference, paired | seconds | time a useful row |"]
    lines += ["|---|---|---|---|---|"]
    for name, row in figures["table"].items():
        reward, gain = row["reward"], row["difference"]
        lines.append(
            f"| {name} | {reward['mean']:.3f} ± {reward['half_width']:.3f} "
            f"| {gain['mean']:+.3f} ± {gain['half_width']:.3f} | {row['seconds']:.1f} "
            f"| {row['share_of_base_per_useful_sample']:.0%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    steps = {"convert": convert, "duckdb": beside_duckdb, "sample": sample}
    here = {"convert-here": convert_here, "duckdb-here": duckdb_here}
    parser.add_argument("step", choices=["generate", *steps, *here, "report"])
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, default=Path("log"))
    parser.add_argument("--out", type=Path, default=Path("results/data"))
    parser.add_argument("--workers", type=int, default=1, help="processes that convert")
    arguments = parser.parse_args()
    if arguments.step == "generate":
        return generate(arguments.folder, arguments.rows)
    if arguments.step in here:
        return here[arguments.step](arguments.folder, arguments.workers)
    if arguments.step == "report":
        return report(arguments.out)
    step = arguments.step
    if step == "convert":
        figures = convert(arguments.folder, arguments.workers)
        step = step if arguments.workers == 1 else f"{step}, {arguments.workers} workers"
    else:
        figures = steps[step](arguments.folder)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "scale.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known["machine"] = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    manifest = json.loads((arguments.folder / "converted" / "manifest.json").read_text())
    rows = str(manifest["report"]["rows_read"])
    known.setdefault("rows", {}).setdefault(rows, {})[step] = figures
    path.write_text(json.dumps(known, indent=1))
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
