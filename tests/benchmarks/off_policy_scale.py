"""Off-policy evaluation of a large log against a large catalogue: seconds and memory.

    python tests/benchmarks/off_policy_scale.py generate --folder log10
    python tests/benchmarks/off_policy_scale.py measure  --folder log10 --out results/off_policy

``generate`` writes a Parquet log with the logging policy's log-propensities and converts it, as
``drpo convert`` does. ``measure`` opens it and scores rows drawn from it under a policy over the
whole catalogue, each case in a process of its own: its peak is the kernel's ``VmHWM``, and what a
case adds is that less ``VmRSS`` once log, policy and reward model are there. Policy and reward
model are as they are before training, with tables of full size: numbers in them change neither
time nor memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_drpo.files import write_json, write_text

ROWS, ITEMS, USERS, FILES, DAY_MS = 10_000_000, 1_001_000, 400_000, 10, 86_400_000
UNIFORM = 0.7  # share of the logging policy that looks at nothing
WIDTH, HISTORY = 64, 20
#: Name -> rows drawn, and whether a reward model is asked about the whole catalogue.
CASES = {"IPS, 50,000 rows": (50_000, False), "DR, 10,000 rows": (10_000, True)}


def generate(folder: Path, rows: int, items: int) -> None:
    """Users with clicks, items by a mixture of the uniform and a heavy-tailed distribution."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from torchrl_drpo.data import LogSchema, convert_log

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    popularity = (1.0 + rng.permutation(items)) ** -0.8
    popularity /= popularity.sum()
    propensity = UNIFORM / items + (1 - UNIFORM) * popularity
    cumulative = propensity.cumsum()
    for number in range(FILES):
        count = rows // FILES
        item = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        item = item.clip(max=items - 1)
        start = number * 3 * DAY_MS
        table = pa.table(
            {
                "user_id": rng.integers(0, USERS, count),
                "item_id": item,
                "time_ms": np.sort(rng.integers(start, start + 3 * DAY_MS, count)),
                "click": (rng.random(count) < 0.1).astype(np.int8),
                "log_p": np.log(propensity[item]),
            }
        )
        pq.write_table(table, folder / f"part-{number:02d}.parquet", row_group_size=1 << 20)
    schema = LogSchema(
        user="user_id", item="item_id", time="time_ms", time_unit="ms", quality="click",
        propensity="log_p", log_propensity=True,
    )  # fmt: skip
    report = convert_log(str(folder / "*.parquet"), folder / "converted", schema)
    print(report)  # noqa: T201


def score(folder: Path, case: str, threads: int) -> dict[str, Any]:
    """One case, in this process."""
    import torch

    from torchrl_drpo import RecReplayBuffer, make_catalogue_actor
    from torchrl_drpo.evaluation.off_policy import (
        InnerProductReward,
        RowSample,
        doubly_robust,
        ips,
        score_log,
    )

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    count, doubly = CASES[case]
    buffer = RecReplayBuffer.open(folder / "converted", batch_size=256, history=HISTORY)
    items = buffer.num_items
    actor = make_catalogue_actor(items, dim=WIDTH, history=HISTORY)
    model = None
    if doubly:
        tower = torch.nn.Linear(HISTORY, WIDTH)
        history = ("observation", "history")
        model = InnerProductReward(
            lambda rows: tower(rows[history].float() / items),
            0.01 * torch.randn(items, WIDTH),
            in_keys=[history],
        )
    before, began = _status("VmRSS"), time.perf_counter()
    sample = RowSample(buffer, count, seed=0)
    rows = score_log(actor, sample, reward_model=model)
    found = (doubly_robust if doubly else ips)(rows)
    seconds = time.perf_counter() - began
    peak = _status("VmHWM")
    return {
        "case": case,
        "log_rows": len(buffer),
        "items": items,
        "rows": len(rows),
        "threads": threads,
        "seconds": round(seconds, 1),
        "peak_MiB": peak,
        "before_MiB": before,
        "added_MiB": peak - before,
        "estimate": found.to_json(),
    }


def _status(name: str) -> int:
    """An entry of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) >> 10


def measure(folder: Path, threads: int) -> list[dict[str, Any]]:
    """Every case, each in a process of its own."""
    out = []
    for case in CASES:
        command = [sys.executable, __file__, "score", "--folder", str(folder), "--case", case]
        command += ["--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out.append(json.loads(done.stdout.splitlines()[-1]))
    return out


def page(found: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "Off-policy evaluation at scale: rows drawn from a converted log on disk, each scored "
        f"against the whole catalogue by a softmax policy of width {WIDTH}. "
        f"Threads: {found[0]['threads']}, on {platform.machine()}. A case's memory is "
        "that of its own process, policy, reward model and Python included; what it added lies on "
        "top of these. Made by `tests/benchmarks/off_policy_scale.py`.",
        "",
        "| case | rows of the log | items | seconds | peak MiB | added MiB | estimate |",
        "|:--|--:|--:|--:|--:|--:|:--|",
    ]
    for each in found:
        said = each["estimate"]
        lines.append(
            f"| {each['case']} | {each['log_rows']:,} | {each['items']:,} | "
            f"{each['seconds']:.0f} | {each['peak_MiB']:,} | {each['added_MiB']:,} | "
            f"{said['value']:.4f} [{said['low']:.4f}, {said['high']:.4f}], {said['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["generate", "measure", "score"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/off_policy"))
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=list(CASES))
    arguments = parser.parse_args()
    if arguments.step == "generate":
        generate(arguments.folder, arguments.rows, arguments.items)
    elif arguments.step == "score":
        print(json.dumps(score(arguments.folder, arguments.case, arguments.threads)))  # noqa: T201
    else:
        found = measure(arguments.folder, arguments.threads)
        write_json(arguments.out / "scale.json", found)
        write_text(arguments.out / "scale.md", page(found))


if __name__ == "__main__":
    main()
