"""Tasks of one call on several threads, each of which computes with its part of torch's threads.

Torch shares every product between its threads, and these wait for each other after each. A call of
many small products, of heads that do not depend on each other, takes less where a thread takes some
heads from the first product to the last: 0.75 to 0.95 of the time forward and backward, 0.7 with
dropout (two threads, 12 heads, 4,096 tokens).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Task = TypeVar("Task")

MOST = 8
"""Threads that take tasks, at most: Python starts the operators of one at a time."""

LEAST = 1 << 27
"""Products of which fewer do not pay: idle threads of torch's own keep a core busy for a while."""

STARTED_WITHIN = 60.0
"""Seconds."""

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def workers_for(tasks: int, device: torch.device, products: float) -> int:
    """Return how many threads should take the tasks of a call; 1 is the thread that asks.

    Args:
        tasks: How many tasks do not depend on each other.
        device: Where they are computed.
        products: How much that is: scores that are computed, times the head size.
    """
    if device.type != "cpu" or products < LEAST:
        return 1
    return max(1, min(tasks, torch.get_num_threads(), MOST))


def share_out(
    tasks: Iterable[Task], compute: Callable[[Iterator[Task]], None], workers: int
) -> None:
    """Compute tasks on some threads, and return when all are done.

    Args:
        tasks: What is to be computed; no task may depend on another.
        compute: Called on each thread with an iterator over the tasks that it is to compute, under
            the gradient mode and the inference mode of the caller.
        workers: How many threads; 1 is the thread that calls.

    Raises:
        Exception: The first that a thread raised, after all threads have stopped.
    """
    left = _Tasks(tasks)
    if workers <= 1:
        compute(left)
        return
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    waiting: list[Future[None]] = []
    try:
        pool = _pool(workers, torch.get_num_threads() // workers)
        waiting.extend(pool.submit(_compute, compute, left, modes) for _ in range(workers))
    except RuntimeError:
        # The interpreter is ending, or the system starts no more threads.
        compute(left)
    try:
        errors = [one.exception() for one in waiting]
    except BaseException:
        left.stop()
        raise
    for error in errors:
        if error is not None:
            raise error


class _Tasks(Generic[Task]):
    """An iterator that several threads may ask; it is at its end once a task has failed."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        with self._lock:
            return next(self._tasks)

    def stop(self) -> None:
        """Give out no more tasks."""
        with self._lock:
            self._tasks = iter(())


def _compute(
    compute: Callable[[Iterator[Task]], None], left: _Tasks[Task], modes: tuple[bool, bool]
) -> None:
    grad, inference = modes
    try:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            compute(left)
    except BaseException:
        left.stop()
        raise


def _pool(workers: int, each: int) -> ThreadPoolExecutor:
    """Return threads that are kept, and use `each` threads of torch apiece."""
    with _pools_lock:
        pool = _pools.get((workers, each))
        if pool is None:
            threads = torch.get_num_threads()
            pool = ThreadPoolExecutor(workers, thread_name_prefix="sparse-patterns")
            ready = threading.Barrier(workers, timeout=STARTED_WITHIN)
            try:
                for one in [pool.submit(_start, ready, each) for _ in range(workers)]:
                    one.result()
            except BaseException:
                ready.abort()
                pool.shutdown(wait=False)
                raise
            # The number is that of the thread that sets it, and also that of threads to come.
            torch.set_num_threads(threads)
            _pools[workers, each] = pool
        return pool


def _start(ready: threading.Barrier, each: int) -> None:
    ready.wait()
    # Torch gives a new thread the number for all threads when that is first asked for.
    torch.get_num_threads()
    torch.set_num_threads(each)


def _forget() -> None:
    """Forget threads that a forked process does not have."""
    global _pools_lock
    _pools.clear()
    _pools_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
