"""Peak memory of one call, measured in a process of its own.

The parent starts `python -m benchmarks.memory`. The child makes the call's inputs, notes its
resident memory, calls once, and prints how far the peak rose above that, in bytes.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

WARM_UP_LENGTH = 1024


def peak_bytes(source: str, contender: str, length: int, direction: str, *, threads: int) -> int:
    """Peak memory above the inputs, in bytes, of one call.

    Args:
        source: Module whose `call_of(contender, length, direction)` makes inputs and call.
        contender: "ours", or the name of a baseline.
        length: Sequence length in tokens.
        direction: What the call does, as in `Row`.
        threads: Number of threads for torch.

    Raises:
        RuntimeError: when the child fails, with what it printed.
    """
    # A fixed threshold, so that the C library gives large blocks back when they are freed. Left to
    # itself it raises the threshold and keeps them, which hides later allocations from the peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    words = [source, contender, str(length), direction, str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *words],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {contender} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["bytes"]


def _status(field: str) -> int:
    """A field of the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _reset_peak() -> int:
    """Starts a new peak where the system can, and returns the memory it rises from, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    """The highest resident memory so far, in bytes.

    Linux's `ru_maxrss` also counts the parent that this process was forked from, so the process's
    own account goes first.
    """
    try:
        return _status("VmHWM")
    except (OSError, LookupError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """The child: one contender, one call, one line of JSON."""
    import torch

    source, contender, length, direction, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    call_of = importlib.import_module(source).call_of
    call_of(contender, WARM_UP_LENGTH, direction)()  # loads libraries and starts threads
    call = call_of(contender, int(length), direction)
    before = _reset_peak()
    result = call()
    print(json.dumps({"bytes": _peak() - before}))
    del result  # held until here, as whoever asked for it would


if __name__ == "__main__":
    main()
