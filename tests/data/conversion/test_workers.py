"""A conversion by several workers: the bytes of one process, for any number of splits."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.data.conftest import random_log
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    ReturnToGo,
    convert_log,
)
from torchrl_drpo.data.sources import LogSource

ROWS = {"batch_rows": 25, "partition_rows": 60}
#: Rows of a split -> splits of a log of 420 rows in one file.
SPLITS = {10_000: 1, 100: 5, 25: 17}
BASE = LogSchema(
    user="user", item="item", time="time", quality="click + 0.0 * play", propensity="propensity",
    context=("tab",), features=("age", "mood"), labels=("duration",),
)  # fmt: skip


def digests(root: Path) -> dict[str, str]:
    """The sha256 of every file of a conversion."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _percentiles(folder: Path) -> tuple[Any, LogSchema, dict[str, Any]]:
    """Ranks within users and shared groups, item vectors, histories from before, faults."""
    frame = random_log()
    frame.loc[[3, 200, 410], "propensity"] = 2.0
    frame.assign(user="u" + frame["user"].astype(str)).to_parquet(
        folder / "log.parquet", row_group_size=70
    )
    ids = sorted(frame["item"].unique())[1:]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 3)).tolist()
    pd.DataFrame({"id": ids, "e": vectors}).to_parquet(folder / "items.parquet")
    past = {"u": ["u101", "nobody"], "h": [ids[:4], ids]}
    pd.DataFrame(past).to_parquet(folder / "past.parquet")
    by = ("user", "duration_bucket")
    schema = BASE.replace(
        quality=Percentile("play", by=by, duration="duration", min_count=3),
        items=ItemTable("items.parquet", "id", embedding="e"),
        initial_history=InitialHistory("past.parquet", "u", "h"),
        history_rows="positive",
    )
    return folder / "log.parquet", schema, {"test_days": 2, "bad_rows": "drop"}


def _without_users(folder: Path) -> tuple[Any, LogSchema, dict[str, Any]]:
    """Rows in the log's order, with histories of their own and slates that meet partitions."""
    frame = random_log()
    histories = [list(range(0, 7 * (k % 4), 7)) for k in range(len(frame))]
    frame = frame.assign(past=histories, shown=np.arange(len(frame)) // 7)
    frame.to_parquet(folder / "log.parquet", row_group_size=64)
    schema = LogSchema(
        item="item", quality=Percentile("play"), history="past", slate="shown", duplicates="keep",
    )  # fmt: skip
    return folder / "log.parquet", schema, {"test_share": 0.3, "test_by": "random"}


def _text(folder: Path) -> tuple[Any, LogSchema, dict[str, Any]]:
    """Files of text, some of them small; returns to go in sessions; a share held out by time."""
    frame = random_log()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), [20, 45, 300])):
        frame.iloc[part].to_csv(folder / f"{number}.csv", index=False)
    schema = BASE.replace(quality=ReturnToGo("click", gamma=0.9), session_gap=7200.0)
    return str(folder / "*.csv"), schema, {"test_share": 0.25}


def _latest(folder: Path) -> tuple[Any, LogSchema, dict[str, Any]]:
    """Folders named key=value; each user's latest rows held out; slates of a user's instant."""
    frame = random_log().assign(shown=lambda f: f["time"] // 600)
    for tab, part in frame.groupby("tab"):
        place = folder / f"tab={tab}"
        place.mkdir()
        part.drop(columns="tab").to_parquet(place / "rows.parquet", row_group_size=11)
    schema = BASE.replace(slate="shown", features=("age",))
    return folder, schema, {"test_share": 0.2, "test_by": "user"}


LOGS = {"percentiles": _percentiles, "no users": _without_users, "text": _text, "latest": _latest}


@pytest.fixture(scope="module", params=[1, 2, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """So many processes, forked by one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchrl_drpo.data.conversion"])
    with ProcessPoolExecutor(request.param, mp_context=context) as found:
        yield found


@functools.cache
def _alone(kind: str, folder: Path) -> tuple[Any, LogSchema, dict[str, Any], dict[str, str]]:
    (folder / "log").mkdir()
    source, schema, options = LOGS[kind](folder / "log")
    convert_log(source, folder / "alone", schema, **ROWS, **options)
    return source, schema, options, digests(folder / "alone")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every log, converted by one process; made once."""
    folders = {kind: tmp_path_factory.mktemp(kind.replace(" ", "-")) for kind in LOGS}
    return lambda kind: _alone(kind, folders[kind])


@pytest.mark.parametrize("kind", LOGS)
def test_any_number_of_workers_and_splits_gives_the_bytes_of_one_process(
    kind: str, pool: Executor, logs: Any, tmp_path: Path
):
    source, schema, options, expected = logs(kind)
    assert len(expected) > 15
    for split_rows in SPLITS:
        root = tmp_path / str(split_rows)
        convert_log(source, root, schema, **ROWS, **options, split_rows=split_rows, executor=pool)
        assert digests(root) == expected, split_rows


def test_splits_are_as_many_as_was_said(logs: Any):
    source, *_ = logs("no users")
    log = LogSource(source, ROWS["batch_rows"])
    assert [len(log.splits(rows)) for rows in SPLITS] == list(SPLITS.values())


@pytest.mark.slow
def test_processes_of_its_own(logs: Any, tmp_path: Path):
    source, schema, options, expected = logs("percentiles")
    told = []
    convert_log(
        source, tmp_path, schema, **ROWS, **options, split_rows=100, executor=2,
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert digests(tmp_path) == expected
    assert {stage for stage, *_ in told} == {"scan", "partition", "sorted", "scored"}


def test_threads_and_the_buffer(logs: Any, tmp_path: Path):
    """Threads share this process's memory; a table in memory is read by the caller."""
    source, schema, options, expected = logs("percentiles")
    with ThreadPoolExecutor(3) as threads:
        convert_log(
            source, tmp_path / "a", schema, **ROWS, **options, split_rows=50, executor=threads
        )
        assert digests(tmp_path / "a") == expected
        buffer = RecReplayBuffer.from_parquet(random_log(), BASE, executor=threads, history=0)
    assert (buffer[:] == RecReplayBuffer.from_parquet(random_log(), BASE, history=0)[:]).all()


def test_a_worker_says_what_the_single_process_says(pool: Executor, tmp_path: Path):
    """The first faulty row in the log's order, whoever comes upon one first."""
    frame = random_log()
    frame.loc[[250, 400], "propensity"] = 2.0
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=70)
    told = []
    for executor in (None, pool):
        with pytest.raises(LogError, match=r"row 250: propensity outside") as error:
            convert_log(
                tmp_path / "log.parquet", tmp_path / "out", BASE, **ROWS, split_rows=25,
                executor=executor,
            )  # fmt: skip
        told.append(str(error.value))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("executor", "error"),
    [(0, ValueError), ("dask", ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_what_cannot_work_is_refused(executor: Any, error: type[Exception], tmp_path: Path):
    with pytest.raises(error, match="executor must be"):
        convert_log(random_log(), tmp_path / "out", BASE, executor=executor)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("cluster", "module"), [("ray", "ray"), ("spark", "pyspark")])
def test_a_library_that_is_not_there_is_named(
    cluster: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    random_log().to_parquet(tmp_path / "log.parquet")
    with pytest.raises(ImportError, match=rf"pip install 'torchrl-drpo\[{cluster}\]'"):
        convert_log(tmp_path / "log.parquet", tmp_path / "out", BASE, executor=cluster)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["ray", "spark"])
def test_tasks_of_a_cluster(cluster: str, logs: Any, tmp_path: Path, monkeypatch: Any):
    module = {"ray": "ray", "spark": "pyspark"}[cluster]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
    if cluster == "spark" and shutil.which("java") is None:
        pytest.skip("needs Java")
    source, schema, options, expected = logs("percentiles")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, _paths())))
    stop = _started(cluster)
    try:
        convert_log(source, tmp_path, schema, **ROWS, **options, split_rows=100, executor=cluster)
        assert digests(tmp_path) == expected
        frame = random_log()
        frame.loc[250, "propensity"] = 2.0
        frame.to_parquet(tmp_path / "bad.parquet")
        with pytest.raises(LogError, match="row 250: propensity outside"):
            convert_log(tmp_path / "bad.parquet", tmp_path / "b", BASE, executor=cluster)
    finally:
        stop()


def _paths() -> list[Path]:
    import torchrl_drpo_kernels

    import torchrl_drpo

    return [Path(str(m.__file__)).parents[1] for m in (torchrl_drpo, torchrl_drpo_kernels)]


def _started(cluster: str) -> Any:
    """Starts one of two workers on this machine; returns what stops it."""
    if cluster == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        return ray.shutdown
    from pyspark import SparkConf, SparkContext

    local = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    conf = SparkConf().setMaster("local[2]").setAll(list(local.items()))
    return SparkContext(conf=conf.set("spark.ui.enabled", "false")).stop
