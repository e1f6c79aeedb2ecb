"""Who does the units of a conversion: this process, others of this machine, Ray's or Spark's tasks.

Each takes a function and its arguments, one call a task, and gives the results in order. The units
keep their results in files, so that nothing here has to survive anything.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing.connection import wait as wait_for
from typing import Any, Literal

Workers = int | Executor | Literal["ray", "spark"] | None
#: ``map(function, items)``: the results in the items' order.
Map = Callable[[Callable[..., Any], Sequence[Any]], Iterable[Any]]

_LOST = (
    "a worker of the conversion died before its task was done (killed, out of memory, or, in a "
    'script, started without `if __name__ == "__main__":`); what was finished stays: run it again '
    "and it goes on"
)


def check_workers(workers: Workers) -> None:
    """Raises ``ValueError`` or ``TypeError`` for what nobody can work with."""
    if isinstance(workers, str):
        if workers not in ("ray", "spark"):
            raise ValueError(
                f"executor must be 'ray' or 'spark' where it is a name, got {workers!r}"
            )
    elif isinstance(workers, bool) or not isinstance(workers, int | Executor | None):
        raise TypeError(
            "executor must be a number of processes, a concurrent.futures.Executor, 'ray' or "
            f"'spark', got {type(workers).__name__}"
        )
    elif isinstance(workers, int) and workers < 1:
        raise ValueError(f"executor must be 1 process or more, got {workers}")


@contextmanager
def mapping(workers: Workers) -> Iterator[Map]:
    """What maps a function over the units.

    Args:
        workers: None or 1: this process; a number: so many new ones; an executor of
            ``concurrent.futures``; ``"ray"`` and ``"spark"``: tasks of theirs, of the cluster that
            this process is connected to, else of this machine.

    Raises:
        RuntimeError: while mapping, if a worker died.
    """
    if isinstance(workers, Executor):
        yield partial(_of_futures, workers)
    elif workers == "ray":
        yield _of_ray
    elif workers == "spark":
        yield _of_spark
    elif workers is None or workers == 1:
        yield map
    else:
        # Not forked: threads of torch and Arrow do not survive that, and it would hold the lock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(int(workers), mp_context=context) as pool:
            yield partial(_of_futures, pool)


def _of_futures(pool: Executor, function: Callable[..., Any], items: Sequence[Any]) -> Iterator:
    futures = []
    try:
        for item in items:
            futures.append(pool.submit(_with_driver, os.getpid(), function, item))  # noqa: PERF401
        for future in futures:
            yield future.result()
    except BrokenExecutor as error:
        raise RuntimeError(_LOST) from error
    finally:  # nobody writes any more when this returns
        wait([future for future in futures if not future.cancel()])


def _with_driver(driver: int, function: Callable[..., Any], item: Any) -> Any:
    if os.getpid() != driver:
        _end_with_driver()
    return function(item)


@cache
def _end_with_driver() -> None:
    """Ends this process soon after its driver: it would wait, and hold the lock, for ever."""
    driver, parent = multiprocessing.parent_process(), os.getppid()
    if driver is None:
        return

    def watch() -> None:
        # Forked siblings keep each other's sentinels open; their parent's number changes.
        while not wait_for([driver.sentinel], 0.2) and os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _outcome(function: Callable[..., Any], item: Any) -> tuple[Any, Exception | None]:
    """What a function returns or raises: a cluster would wrap errors in its own."""
    try:
        return function(item), None
    except Exception as error:
        return None, error


def _taken(outcomes: Iterable[tuple[Any, Exception | None]]) -> Iterator[Any]:
    for value, error in outcomes:
        if error is not None:
            raise error
        yield value


def _absent(name: str) -> str:
    return f"executor={name!r} needs that library; pip install 'torchrl-drpo[{name}]'"


def _of_ray(function: Callable[..., Any], items: Sequence[Any]) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise ImportError(_absent("ray")) from None
    if not ray.is_initialized():
        ray.init()
    task = ray.remote(_outcome)
    shared = ray.put(function)
    waiting = [task.remote(shared, item) for item in items]
    try:
        yield from _taken(map(ray.get, waiting))
    except ray.exceptions.RayError as error:
        raise RuntimeError(_LOST) from error
    finally:
        for left in waiting:
            ray.cancel(left)
        ray.wait(waiting, num_returns=len(waiting)) if waiting else None


def _of_spark(function: Callable[..., Any], items: Sequence[Any]) -> Iterator[Any]:
    try:
        from py4j.protocol import Py4JError
        from pyspark import SparkContext
    except ImportError:
        raise ImportError(_absent("spark")) from None
    if not items:
        return
    context = SparkContext.getOrCreate()
    try:
        found = context.parallelize(items, len(items)).map(partial(_outcome, function)).collect()
    except Py4JError as error:
        raise RuntimeError(_LOST) from error
    yield from _taken(found)
