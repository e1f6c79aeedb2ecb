"""A worker or the driver of a conversion killed at any moment: said, and the same bytes after."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.conversion.full_schema import SCHEMA
from tests.data.conversion.test_workers import digests
from torchrl_drpo.data import Percentile, convert_log

OPTIONS = {"test_days": 2, "batch_rows": 30, "partition_rows": 60, "split_rows": 60}

# Drivers of two forked workers each, one of which is killed inside its k-th write; or the driver,
# when it has heard of the k-th unit. One interpreter forks them all: imports are paid once.
KILLER = """
import json, multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import pyarrow.parquet
from torchrl_drpo.data import LogSchema, convert_log
from torchrl_drpo.data.conversion import journal

def arm(writes):
    left, real = [writes], journal.write_array
    def write_array(file, array):
        left[0] -= 1
        if left[0] == 0:
            real(file, np.ascontiguousarray(array)[: len(array) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, array)
    journal.write_array = write_array

def convert_and_die(who, count, report):
    source, root, schema, options = sys.argv[1:5]
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(2, fork, arm, (count if who == "worker" else 0,))
    left = [count]
    def progress(stage, done, total):
        left[0] -= 1
        if who == "driver" and left[0] == 0:
            print(*pool._processes, file=report, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    schema = LogSchema.from_json(open(schema).read())
    try:
        convert_log(source, root, schema, executor=pool, progress=progress, **json.loads(options))
    except RuntimeError as error:
        print(error, file=report, flush=True)
        os._exit(3)
    os._exit(0)

def run(kill):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        convert_and_die(*kill, os.fdopen(write, "w"))
    os.close(write)
    said = os.fdopen(read).readline().strip()
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), said

root, finished = sys.argv[2], 0
for kill in json.loads(sys.argv[5]):
    ended, said = run(kill)
    if ended == 0:  # the run was done before its turn came: the next one begins anew
        os.rename(root, f"{root}-{finished}")
        finished += 1
        ended, said = run(kill)
    folders = [os.path.join(root, d, "notes") for d in os.listdir(root)]
    notes = [name for f in folders if os.path.isdir(f) for name in os.listdir(f)]
    print(json.dumps([ended, said, notes]), flush=True)
"""


def _killed(kills: list[tuple[str, int]], log: Path, folder: Path) -> list[Counter[str]]:
    """Kills one after the other, each in the run that goes on; how many units each left done."""
    by = ("user", "duration_bucket")
    quality = Percentile("play", by=by, duration="duration", min_count=3)
    schema = SCHEMA.replace(quality=quality, session_gap=7200.0)
    (folder / "schema.json").write_text(schema.to_json())
    convert_log(log, folder / "whole", schema, **OPTIONS)
    command = [sys.executable, "-c", KILLER, log, folder / "killed", folder / "schema.json"]
    command += [json.dumps(OPTIONS), json.dumps(kills)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    stages = []
    for (who, _), line in zip(kills, run.stdout.splitlines(), strict=True):
        ended, said, notes = json.loads(line)
        stages.append(Counter(name.partition("-")[0] for name in notes))
        if who == "driver":
            assert ended == signal.SIGKILL
            _wait_for_the_end_of([int(pid) for pid in said.split()])
        else:
            assert ended == -3, run.stderr
            assert "a worker of the conversion died" in said
            assert "it goes on" in said
    with ThreadPoolExecutor(2) as pool:
        convert_log(log, folder / "killed", schema, **OPTIONS, executor=pool)
    expected = digests(folder / "whole")
    for finished in folder.glob("killed*"):
        assert digests(finished) == expected, finished
    return stages


def _wait_for_the_end_of(workers: list[int], patience: float = 10.0) -> None:
    """Workers end with their driver; they would hold its lock."""
    assert workers
    end = time.monotonic() + patience
    while left := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < end, f"workers {left} outlived their driver"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


linux = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")


@linux
def test_killed_in_every_stage(parquet: Path, tmp_path: Path):
    """Reading, sorting, writing; a worker and the driver in each."""
    kills = [("worker", 4), ("driver", 9), ("worker", 4), ("driver", 12), ("worker", 30)]
    kills += [("driver", 9)]  # that worker may have done nearly all units, and written none yet
    stages = _killed(kills, parquet, tmp_path)
    assert any(found["read"] and not found["sorted"] for found in stages)
    assert any(found["sorted"] and not found["written"] for found in stages)
    assert any(found["written"] for found in stages)


@linux
@pytest.mark.slow
def test_twenty_kills_at_random_moments(parquet: Path, tmp_path: Path):
    rng = random.Random(0)
    kills = [(rng.choice(["worker", "driver"]), rng.randrange(1, 21)) for _ in range(20)]
    _killed(kills, parquet, tmp_path)
