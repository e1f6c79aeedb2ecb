"""What serving costs: a request, a file of users, an index of faiss, an exported graph.

    OMP_NUM_THREADS=1 python tests/benchmarks/serving.py --out results/serving

Untrained policies of width 64 with histories of 20; processor time of one thread. Parts whose
library is not installed are left out, and the report says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, policy_of
from torchrl_drpo.pipeline.artifacts.users import UserHistories
from torchrl_drpo.pipeline.exporting import export_policy, load_exported
from torchrl_drpo.pipeline.serving import service
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request
from torchrl_drpo.pipeline.serving.user_files import write_lists
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.decoding import FaissDecoder
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor

USERS, SEEN, REQUESTS, IN_FILE = 10_000, 50, 15, 2_000
ASKED = {
    "best 10": {},
    "1,000 allowed": {"allow": list(range(1_000))},
    "10 drawn": {"sample": True},
    "10 drawn, top-p .9": {"sample": True, "top_p": 0.9},
}


def spent(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    before = time.process_time()
    work()
    return time.process_time() - before


def policy(kind: str, items: int) -> PolicyCheckpoint:
    """An untrained policy with users who have seen 50 items each."""
    torch.manual_seed(0)
    model = {"num_items": items, "dim": 64, "history": 20, "context_sizes": ()}
    if kind == "catalogue":
        actor = make_catalogue_actor(**model)
    else:
        codes = torch.stack([torch.randint(0, 256, (items,)) for _ in range(3)], 1)
        actor = make_semantic_id_actor(codes, dim=64, history=20)
        model["code_sizes"] = policy_of(actor).trie.sizes
    users = UserHistories(
        Catalogue(list(range(USERS))),
        torch.randint(0, items, (USERS * SEEN,)),
        torch.arange(USERS + 1) * SEEN,
        torch.zeros(USERS, 0, dtype=torch.long),
        torch.zeros(USERS, 0),
    )
    return PolicyCheckpoint(actor.eval(), model, Catalogue(list(range(items))), users, policy=kind)


def served(kind: str, items: int) -> dict[str, float]:
    """Milliseconds of a request, of a user in a file, and of one in an exported graph."""
    model = policy(kind, items)
    recommender = Recommender(model)
    found = {}
    for name, fields in ASKED.items():
        times = []
        for user in range(REQUESTS):
            line = json.dumps({"user": user, "k": 10, **fields}).encode()
            times.append(spent(lambda: service.answer(recommender, line, 1, Request())))  # noqa: B023
        found[name] = 1e3 * statistics.median(times)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "users.txt"
        write_text(file, "\n".join(map(str, range(IN_FILE))))
        out = Path(folder) / "lists.parquet"
        took = spent(lambda: write_lists(recommender, Request(), file, out))
        found[f"in a file of {IN_FILE:,}"] = 1e3 * took / IN_FILE
        export_policy(model, Path(folder) / "graph", k=10)
        exported = load_exported(Path(folder) / "graph")
        rows = {"history": model.users.latest(torch.arange(100), model.window)}
        exported.tensors(rows)
        took = spent(lambda: exported.tensors(rows))
        found["exported, 100 at a time"] = 1e3 * took / 100
    return found


def indexed(items: int, kinds: tuple[str, ...]) -> list[dict[str, object]]:
    """Of 200 queries near 500 centres: recall and milliseconds of each index."""
    torch.manual_seed(0)
    centres = torch.randn(500, 64)
    near = centres[torch.randint(0, 500, (items + 200,))] + 0.7 * torch.randn(items + 200, 64)
    vectors, queries = near[:items], near[items:]
    found: list[dict[str, object]] = []
    for kind in kinds:
        before = time.process_time()
        decoder = FaissDecoder(vectors, kind, sample=queries)
        built = time.process_time() - before
        took = spent(lambda: [decoder.decode(each, 10, torch.arange(50)) for each in queries])  # noqa: B023
        one = {"index": kind, "items": items, "recall@10": decoder.recall.value}
        found.append(one | {"build_s": built, "query_ms": 1e3 * took / len(queries)})
    exact = decoder.exact
    took = spent(lambda: [exact.decode(each, 10, torch.arange(50)) for each in queries])
    return [{"index": "exact", "items": items, "query_ms": 1e3 * took / len(queries)}, *found]


def table(report: dict) -> str:
    """The report as Markdown."""
    names = list(next(iter(report["served"].values())))
    lines = ["Processor time of one thread, milliseconds a user.", ""]
    lines += ["| policy | " + " | ".join(names) + " |", "|:--|" + "--:|" * len(names)]
    for policy_name, found in report["served"].items():
        lines.append(f"| {policy_name} | " + " | ".join(f"{v:.2f}" for v in found.values()) + " |")
    lines += ["", "| index | items | recall@10 | build, s | query, ms |", "|:--|--:|--:|--:|--:|"]
    for one in report["indexed"]:
        recall, build = one.get("recall@10", 1.0), one.get("build_s", 0.0)
        lines.append(
            f"| {one['index']} | {one['items']:,} | {recall:.4f} | {build:.1f} | "
            f"{one['query_ms']:.2f} |"
        )
    if not report["indexed"]:
        lines[-2:] = ["faiss is not installed."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--indexed", type=int, default=50_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict = {"torch": torch.__version__, "served": {}, "indexed": []}
    for kind in ("catalogue", "semantic-id"):
        for items in options.items:
            report["served"][f"{kind}, {items:,} items"] = served(kind, items)
    try:
        import faiss

        faiss.omp_set_num_threads(1)
        report["faiss"] = faiss.__version__
        report["indexed"] = indexed(options.indexed, ("flat", "ivf", "hnsw"))
    except ModuleNotFoundError:
        pass
    write_json(options.out / "serving.json", report)
    write_text(options.out / "serving.md", table(report))


if __name__ == "__main__":
    main()
