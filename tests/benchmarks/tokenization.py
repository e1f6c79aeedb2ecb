"""Semantic IDs by ``drpo tokenize``: seconds and memory at a million items, and real logs.

    python tests/benchmarks/tokenization.py --folder /tmp/tokens --out results/tokenization

Every case is the command itself, in a process of its own, on one thread: its peak is the kernel's
``VmHWM``. The million vectors are those of 5,000 clusters. Real logs are read where
``TORCHRL_DRPO_DATA`` names their folder; their vectors are found in the training rows.
The cost of a balanced assignment stands beside the exact one's, by scipy's
``linear_sum_assignment``, where that is small enough to be solved.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_drpo.files import write_json, write_text

ITEMS, WIDTH, CLUSTERS = 1_000_000, 64, 5_000
MILLION = ("--items", "million.npy")
BEAUTY = ("--logs", "{data}/amazon_beauty_p5/Beauty_P5.sequences.parquet", "--schema")
BEAUTY += ("beauty.schema.json", "--test-share", "0.1", "--test-by", "user")
KUAIRAND = ("--logs", "{data}/kuairand_pure_part/log_standard_20220425_20220508.parquet")
KUAIRAND += ("--preset", "kuairand")
PUBLISHED = "{data}/amazon_semantic_ids/Industrial_and_Scientific.items.parquet"
#: Name -> options; all but the last make 3 levels of 256 codes.
CASES: dict[str, tuple[str, ...]] = {
    "1,000,000 x 64": MILLION,
    "1,000,000 x 64, balanced": (*MILLION, "--balanced"),
    "Beauty": BEAUTY,
    "Beauty, balanced": (*BEAUTY, "--balanced"),
    "KuaiRand": KUAIRAND,
    "KuaiRand, balanced": (*KUAIRAND, "--balanced"),
    "Industrial, as published": (
        *("--items", PUBLISHED, "--id", "item_id", "--report-only"),
        *("--existing", "code_0", "code_1", "code_2"),
    ),
}


def generate(folder: Path) -> None:
    """A million vectors, a block at a time, and the schema of a log of sequences."""
    from torchrl_drpo.data import Lists, LogSchema

    draw = np.random.default_rng(0)
    centres = draw.normal(size=(CLUSTERS, WIDTH)).astype(np.float32)
    path = folder / "million.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (ITEMS, WIDTH))
    for start in range(0, ITEMS, 50_000):
        noise = draw.normal(size=(50_000, WIDTH)).astype(np.float32)
        vectors[start : start + 50_000] = centres[draw.integers(0, CLUSTERS, 50_000)] + noise / 2
    vectors.flush()
    schema = LogSchema(
        item="item_ids", user="user_id", time="list_place", quality="1", lists=Lists(("item_ids",))
    )
    write_text(folder / "beauty.schema.json", schema.to_json())


def run(case: str, folder: Path) -> dict[str, Any]:
    """One case, in this process."""
    import torch

    from torchrl_drpo.cli import main as drpo

    torch.set_num_threads(1)
    os.chdir(folder)
    data = os.environ.get("TORCHRL_DRPO_DATA", "")
    options = [option.format(data=data) for option in CASES[case]]
    said = io.StringIO()
    began, worked = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(said):
        code = drpo(["tokenize", *options, "--output", "out.parquet", "--overwrite", "--json"])
    if code:
        raise SystemExit(code)
    numbers = {
        "case": case,
        "seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "peak_MiB": _peak(),
    }
    report = json.loads(said.getvalue())
    places = ("out", "schema_items")  # of this machine
    return numbers | {name: value for name, value in report.items() if name not in places}


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10


def balance() -> list[dict[str, Any]]:
    """Balanced assignments beside the cheapest ones."""
    import torch
    from scipy.optimize import linear_sum_assignment

    from torchrl_drpo.tokenization.assignment import nearest
    from torchrl_drpo.tokenization.balance import balanced

    out = []
    for count, codes, width, clusters in (
        (600, 8, 4, 1), (1_000, 50, 4, 1), (2_000, 64, 16, 1), (1_000, 32, 16, 5), (600, 8, 4, 5),
    ):  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        vectors = torch.randn(count, width, generator=draw)
        if clusters > 1:  # of unequal sizes, far apart, with centroids where the vectors are
            sizes = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
            label = torch.multinomial(sizes, count, True, generator=draw)
            vectors = 0.3 * vectors + 2 * torch.randn(5, width, generator=draw)[label]
        centroids = vectors[torch.randperm(count, generator=draw)[:codes]]
        capacity = -(-count // codes)
        squares = (vectors.double()[:, None] - centroids.double()).square().sum(-1)
        places = squares.repeat_interleave(capacity, 1).numpy()
        exact = places[linear_sum_assignment(places)].sum()
        cost = balanced(vectors, centroids, capacity).distance.sum().item()
        free = nearest(vectors, centroids)[1].sum().item()
        out.append(
            {
                "vectors": count, "codes": codes, "clusters": clusters,
                "over_exact": cost / exact - 1, "free_of_exact": free / exact,
            }
        )  # fmt: skip
    return out


def page(found: list[dict[str, Any]], balances: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [
        f"`drpo tokenize` on one thread of {platform.machine()}, each case in a process of its "
        "own. Perplexity: of each level's codes over the items. Error: share of the vectors' "
        "variance that the codes leave. Purity: nearest neighbours in the vectors, and items of "
        "one user after another, that share their first code (beside chance). Hits lost: if a "
        "leaf gives its most popular item alone. Made by `tests/benchmarks/tokenization.py`.",
        "",
        "| case | items | seconds (processor) | peak MiB | perplexity | error | colliding items | "
        "on one leaf | hits lost | neighbours | together |",
        "|:--|" + "--:|" * 10,
    ]
    for each in found:
        levels, lost = each["levels"], each["hits_lost"]
        error = each.get("quantisation_error")
        cells = [
            each["case"],
            f"{each['items']:,}",
            f"{each['seconds']:.0f} ({each['processor_seconds']:.0f})",
            f"{each['peak_MiB']:,}",
            ", ".join(f"{level['perplexity']:.0f}" for level in levels),
            "" if error is None else f"{error[-1]:.3f}",
            f"{each['collisions']['colliding']:,}",
            f"{each['collisions']['largest']:,}",
            "" if lost is None else f"{lost['one_a_leaf']:.1%}",
            _pair(levels[0]["neighbours"]),
            _pair(levels[0]["together"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "A balanced assignment beside the cheapest one of that capacity, and what every vector's "
        "nearest code would cost:",
        "",
        "| vectors | codes | clusters | above the exact cost | nearest, of the exact cost |",
        "|:--|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {each['vectors']:,} | {each['codes']} | {each['clusters']} | "
        f"{each['over_exact']:.1%} | {each['free_of_exact']:.0%} |"
        for each in balances
    ]
    return "\n".join(lines) + "\n"


def _pair(found: dict[str, float] | None) -> str:
    return "" if found is None else f"{found['share']:.1%} ({found['chance']:.1%})"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for what is made on the way")
    parser.add_argument("--out", type=Path, default=Path("results/tokenization"))
    parser.add_argument("--case", choices=list(CASES), help="this one, as JSON")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.case:
        print(json.dumps(run(arguments.case, folder)))  # noqa: T201
        return
    folder.mkdir(parents=True, exist_ok=True)
    generate(folder)
    found = []
    for case, options in CASES.items():
        if any("{data}" in option for option in options) and "TORCHRL_DRPO_DATA" not in os.environ:
            continue
        command = [sys.executable, __file__, "--folder", str(folder), "--case", case]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    balances = balance()
    write_json(arguments.out / "tokenization.json", {"cases": found, "balance": balances})
    write_text(arguments.out / "tokenization.md", page(found, balances))


if __name__ == "__main__":
    main()
