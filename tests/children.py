"""Runs programs in processes of their own, without the seconds that imports take.

The processes are forks of one that has imported the large libraries and has run nothing. A test of
what an import does, or of a command as it is installed, starts a new interpreter instead.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]

# `torch._dynamo` is what optimizers import.
_LIBRARIES = ["lightning.pytorch", "torchmetrics", "sparse_patterns", "scipy.optimize"]
_LIBRARIES += ["torch._dynamo"]


def run_program(
    program: Path,
    *words: str,
    processes: int = 1,
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    numbered: bool = False,
    timeout: float = 300,
) -> str:
    """Run a program and return what it prints; fail with that if a process fails.

    Args:
        program: A Python file.
        *words: The words of its command line.
        processes: How many run it. With more than one each has the environment that Lightning
            gives to the processes it starts, so that it starts none itself.
        folder: The working folder.
        environment: Variables beside those of this process.
        numbered: Put the number of the process before the words.
        timeout: Seconds for all of them.
    """
    with tempfile.TemporaryDirectory() as logs:
        line = [str(program), *words]
        children = start_group(line, processes, folder, environment or {}, logs, numbered)
        try:
            deadline = time.monotonic() + timeout
            for child in children:
                child.join(max(0.0, deadline - time.monotonic()))
        finally:
            for child in children:
                child.kill()
                child.join()
        said = [Path(logs, str(rank)).read_text() for rank in range(processes)]
    for rank, child in enumerate(children):
        assert child.exitcode == 0, f"process {rank} ended with {child.exitcode}:\n{said[rank]}"
    return "".join(said)


def start_group(
    line: Sequence[str],
    processes: int,
    folder: Path,
    environment: Mapping[str, str],
    logs: str,
    numbered: bool = False,
) -> list[BaseProcess]:
    """Start the processes of a group and return them, in the order of their ranks.

    Args:
        line: A Python file and the words of its command line.
        processes: As in `run_program`, like the others that are not named here.
        folder: The working folder.
        environment: Variables beside those of this process.
        logs: A folder; a file there, named by the rank, is for what a process prints.
        numbered: Put the rank before the words.
    """
    shared = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if processes > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    program, *words = line
    children = []
    for rank in range(processes):
        own = shared | ({"LOCAL_RANK": str(rank)} if processes > 1 else {})
        its = [program, *([str(rank)] if numbered else []), *words]
        children.append(start_program(its, folder, own, os.path.join(logs, str(rank))))
    return children


def start_program(
    line: Sequence[str], folder: Path, environment: Mapping[str, str], log: str
) -> BaseProcess:
    """Start a program and return its process, which the caller waits for or kills.

    Args:
        line: A Python file and the words of its command line.
        folder: The working folder.
        environment: All of its variables.
        log: The file for what it prints.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    child = context.Process(target=_work, args=(list(line), str(folder), dict(environment), log))
    child.start()
    return child


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _work(line: Sequence[str], folder: str, environment: Mapping[str, str], log: str) -> None:
    """Become the program: its output, variables, folder and words."""
    import torch

    file = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = list(line)
    sys.path.insert(0, str(ROOT))
    sys.path.append(str(Path(line[0]).parent))
    runpy.run_path(line[0], run_name="__main__")
