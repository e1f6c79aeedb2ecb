"""Semantic-ID policies: the constrained search against a walk over dicts, and a million items.

    python tests/benchmarks/semantic_ids.py --out results/semantic_ids

The opponent is how open semantic-ID recommenders constrain their beams: a dict from each prefix to
the codes that may follow, looked up for every beam at every step, and a mask a beam. Both run the
same decoder on the same states, one thread, in turns; each number is the least of three.

Cases of a million items run in a process of their own, whose peak is the kernel's ``VmHWM``; what a
case adds is that less what torch and this file take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_drpo import DRPOLoss
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.semantic_id import make_decoder, make_semantic_id_actor

USERS, BEAM, WIDTH = 1_000, 50, 64
MILLION, LARGE_WIDTH, ROWS, KAPPA, HISTORY = 1_000_000, 128, 1_024, 0.1, 20
HEADS = ("gru", "transformer", "parallel")


def clustered_codes(items: int = 3_686) -> Tensor:
    """Three levels of at most 48, 256 and 256 codes, as unevenly filled as a public index."""
    generator = torch.Generator().manual_seed(0)
    first = (torch.rand(items, generator=generator) ** 2 * 48).long()
    rest = torch.rand(items, 2, generator=generator)
    branch = (rest[:, 0] ** 1.5 * 95).long()
    return torch.stack([first, (first * 37 + branch) % 256, (rest[:, 1] * 256).long()], 1)


def prefixes(codes: Tensor) -> dict[str, list[int]]:
    """The codes that may follow each prefix."""
    following: dict[str, set[int]] = {}
    for path in codes.tolist():
        for level in range(len(path)):
            following.setdefault("-".join(map(str, path[:level])), set()).add(path[level])
    return {prefix: list(codes) for prefix, codes in following.items()}


@torch.no_grad()
def dict_walk(
    decoder: nn.Module, hidden: Tensor, following: dict[str, list[int]], sizes: tuple[int, ...]
) -> Tensor:
    """Log-probabilities of the best ``BEAM`` full prefixes of each row, normalised as ours are."""
    score, memory = torch.zeros(len(hidden), 1), decoder.start(hidden)
    path = torch.zeros(len(hidden), 1, 0, dtype=torch.long)
    for level, size in enumerate(sizes):
        logits = decoder.logits(memory, level).expand(-1, path.shape[1], -1)
        mask = torch.full(logits.shape, -torch.inf)
        for row, beams in enumerate(path):
            for place, beam in enumerate(beams):
                legal = following.get("-".join(map(str, beam.tolist())), [])
                mask[row, place, legal] = 0
        among = (logits + mask).log_softmax(-1)
        reached = (score.unsqueeze(-1) + among).flatten(1)
        score, chosen = reached.topk(min(BEAM, reached.shape[1]), 1)
        parent, code = chosen // size, chosen % size
        before = path.gather(1, parent.unsqueeze(-1).expand(-1, -1, level))
        path = torch.cat([before, code.unsqueeze(-1)], -1)
        if level + 1 < len(sizes):
            memory = decoder.advance(memory, parent, code, level)
    return score


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def decoder_seconds(decoder: nn.Module, work: Callable[[], Any]) -> float:
    """Processor time that the decoder takes of one call, which both searches must spend."""
    spent = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            nonlocal spent
            start = time.process_time()
            out = method(*given)
            spent += time.process_time() - start
            return out

        return run

    with ExitStack() as stack:
        for name in ("start", "logits", "advance"):
            stack.enter_context(mock.patch.object(decoder, name, timed(getattr(decoder, name))))
        work()
    return spent


def search_against_dicts() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    codes = clustered_codes().unique(dim=0)  # items of one code have one score in a walk
    codes = torch.stack([column.unique(return_inverse=True)[1] for column in codes.T], 1)
    trie, following = CodeTrie(codes), prefixes(codes)
    out = []
    for head in HEADS:
        torch.manual_seed(0)
        hidden, decoder = torch.randn(USERS, WIDTH), make_decoder(head, trie.sizes, WIDTH)
        dist = TrieCategorical(hidden, decoder, trie)
        blocks = hidden.split(100)
        found = dist.topk(BEAM, beam=BEAM).values
        walked = torch.cat([dict_walk(decoder, b, following, trie.sizes) for b in blocks[:2]])
        if not torch.allclose(found[:200], walked, atol=1e-4):
            raise RuntimeError(f"{head}: the two searches disagree")

        def walk(decoder: nn.Module = decoder, blocks: Any = blocks) -> None:
            for block in blocks:
                dict_walk(decoder, block, following, trie.sizes)

        def search(dist: TrieCategorical = dist) -> None:
            dist.topk(BEAM, beam=BEAM)

        ours, theirs, of_decoder = [], [], []
        for _ in range(3):
            ours.append(seconds(search))
            theirs.append(seconds(walk))
            of_decoder.append((decoder_seconds(decoder, search), decoder_seconds(decoder, walk)))
        shared, their_shared = map(min, zip(*of_decoder, strict=True))
        out.append(
            {
                "head": head,
                "ours": min(ours),
                "dict walk": min(theirs),
                "times faster": min(theirs) / min(ours),
                "decoder in ours": shared,
                "beside the decoder, times faster": (min(theirs) - their_shared)
                / (min(ours) - shared),
            }
        )
    return out


def large_search() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    out = []
    for levels, size in ((3, 1024), (4, 256)):
        torch.manual_seed(0)
        codes = torch.randint(size, (MILLION, levels))
        build = seconds(lambda codes=codes: CodeTrie(codes))
        trie = CodeTrie(codes)
        held = sum(each.numel() * each.element_size() for each in trie.buffers()) / 2**20
        for head in HEADS:
            decoder = make_decoder(head, trie.sizes, WIDTH)
            dist = TrieCategorical(torch.randn(USERS, WIDTH), decoder, trie)
            found = [seconds(lambda dist=dist: dist.topk(BEAM, beam=BEAM)) for _ in range(3)]
            out.append(
                {
                    "levels": f"{levels} x {size}",
                    "head": head,
                    "search": min(found),
                    "build": build,
                    "trie, MiB": held,
                }
            )
    return out


def memory(field: str) -> float:
    """``VmHWM`` or ``VmRSS`` of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def large_training(kind: str) -> dict[str, Any]:
    """A few steps and lists for USERS users of a policy over a million items."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = memory("VmRSS")
    options = {"dim": LARGE_WIDTH, "history": HISTORY}
    if kind == "catalogue":
        actor = make_catalogue_actor(MILLION, **options)
    else:
        actor = make_semantic_id_actor(torch.randint(256, (MILLION, 4)), **options)
    loss = DRPOLoss(actor, kappa=KAPPA)
    optimiser = torch.optim.Adam(loss.parameters(), 1e-3)

    def rows(count: int) -> TensorDict:
        observation = {"history": torch.randint(MILLION, (count, HISTORY))}
        entries = {"observation": observation, "action": torch.randint(MILLION, (count,))}
        return TensorDict(entries | {"next": {"reward": torch.rand(count, 1)}}, [count])

    def step() -> float:
        def once() -> None:
            optimiser.zero_grad()
            loss(rows(ROWS))["loss_actor"].backward()
            optimiser.step()

        return seconds(once)

    steps = [step() for _ in range(4)]
    trained = memory("VmHWM")
    asked = rows(USERS)
    with torch.no_grad():
        lists = seconds(lambda: actor.get_dist(asked).topk(BEAM))
    return {
        "policy": kind,
        "step": min(steps[1:]),
        "lists": lists,
        "added by training, MiB": trained - before,
        "peak, MiB": memory("VmHWM"),
    }


def in_process(kind: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", kind]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return str(value)

    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([shown(row[name]) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("results/semantic_ids"))
    parser.add_argument("--only", choices=["catalogue", "semantic-id"])
    options = parser.parse_args()
    if options.only:
        sys.stdout.write(json.dumps(large_training(options.only)) + "\n")
        return
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "search against dicts": search_against_dicts(),
        "a million items, search": large_search(),
        "a million items, training": [in_process(kind) for kind in ("catalogue", "semantic-id")],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "speed.json", found)
    text = f"""# Semantic IDs: speed and memory

Made by `python tests/benchmarks/semantic_ids.py` on {found["machine"]}.

## {USERS:,} users, beam {BEAM}: the search against a walk over dicts

Processor seconds of one thread, least of three, states and decoder (D = {WIDTH}) the same.
The decoder's own time neither can save: with a recurrent or a transformer head it alone is a tenth
of the walk or more.

{table(found["search against dicts"])}

## A million items

{USERS:,} users, beam {BEAM}; processor seconds of one thread, as everywhere on this page.

{table(found["a million items, search"])}

Training with DRPO, {ROWS:,} rows a step, kappa = {KAPPA}, D = {LARGE_WIDTH}, histories of
{HISTORY}, Adam; then lists of {BEAM} for {USERS:,} users. Catalogue: exact, the
whole softmax; semantic-id: four levels of 256 codes, a recurrent head.

{table(found["a million items, training"])}
"""
    write_text(options.out / "speed.md", text)


if __name__ == "__main__":
    main()
