"""Tasks on several threads: each is done once, as the caller would, and errors arrive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from sparse_patterns.kernels import threads
from sparse_patterns.kernels.threads import share_out, workers_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_task_is_done_once(workers: int) -> None:
    done: list[int] = []
    on: set[int] = set()

    def compute(tasks: Iterator[int]) -> None:
        on.add(threading.get_ident())
        for task in tasks:
            done.append(task)
            time.sleep(0.002)

    share_out(range(40), compute, workers)
    assert sorted(done) == list(range(40))
    assert len(on) == workers
    assert (threading.get_ident() in on) is (workers == 1)


@pytest.mark.parametrize(("workers", "each"), [(2, 2), (3, 1), (4, 1)])
def test_threads_have_their_part_of_those_of_torch(workers: int, each: int) -> None:
    found: list[int] = []
    ready = threading.Barrier(workers)

    def compute(tasks: Iterator[int]) -> None:
        ready.wait(60)
        torch.ones(1 << 16).exp_()
        found.append(torch.get_num_threads())

    share_out(range(workers), compute, workers)
    assert found == [each] * workers
    assert torch.get_num_threads() == 4
    others: list[int] = []
    own = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    own.start()
    own.join()
    assert others == [4], "a thread of the caller's"


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_modes_are_those_of_the_caller(grad: bool, inference: bool) -> None:
    def modes() -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    found = []
    with torch.inference_mode(inference), torch.set_grad_enabled(grad):
        share_out(range(2), lambda tasks: found.append(modes()), 2)
        assert found == [modes()] * 2


def test_an_error_arrives_when_all_threads_have_stopped() -> None:
    running, begun = [0], []

    def compute(tasks: Iterator[int]) -> None:
        running[0] += 1
        try:
            for task in tasks:
                begun.append(task)
                if task == 1:
                    raise ValueError("task 1")
                time.sleep(0.05)
        finally:
            running[0] -= 1

    with pytest.raises(ValueError, match="task 1"):
        share_out(range(1000), compute, 2)
    assert running == [0]
    assert len(begun) < 10, "no thread begins another task"
    share_out(range(3), compute=lambda tasks: begun.extend(tasks), workers=2)
    assert begun[-3:] == [0, 1, 2]


@pytest.mark.parametrize(
    ("tasks", "device", "products", "workers"),
    [
        (12, CPU, threads.LEAST, 4),
        (3, CPU, threads.LEAST, 3),
        (12, CPU, threads.LEAST - 1, 1),
        (0, CPU, threads.LEAST, 1),
        (12, torch.device("cuda"), threads.LEAST, 1),
    ],
)
def test_who_takes_tasks(tasks: int, device: torch.device, products: int, workers: int) -> None:
    assert workers_for(tasks, device, products) == workers


def test_no_more_threads_than_python_can_start_operators_of() -> None:
    torch.set_num_threads(64)
    assert workers_for(100, CPU, threads.LEAST) == threads.MOST


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    program = """
import os
from sparse_patterns.kernels.threads import share_out
done = []
share_out(range(4), done.extend, 2)
child = os.fork()
if not child:
    share_out(range(4), done.extend, 2)
    os._exit(0 if sorted(done) == [0, 0, 1, 1, 2, 2, 3, 3] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_tasks_are_done_while_the_interpreter_ends() -> None:
    program = """
import threading, time
from sparse_patterns.kernels.threads import share_out
share_out(range(4), list, 2)

def late():
    threading.main_thread().join()
    time.sleep(0.2)
    done = []
    share_out(range(4), done.extend, 2)
    print(done)

threading.Thread(target=late).start()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=120, capture_output=True, text=True
    )
    assert ended.stdout.strip() == "[0, 1, 2, 3]", ended.stderr
