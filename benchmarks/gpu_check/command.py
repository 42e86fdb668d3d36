"""`python -m benchmarks gpu-check`: everything about a GPU that can be known in minutes.

It takes torch with CUDA and this checkout, no network and no other library; a library that is not
there takes away its own part and is named. The parts run in order of worth (see `worker.PARTS`),
each to its own time, and print a line as soon as something is known. At the end stands a table of
all states, and everything is in one JSON file, with lines proposed for the kernels' file of rates.

The exit status is 0 when every number was right, 1 when one was wrong or a kernel failed, and 2
where there is no GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_check import proposals, worker
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import BAD, FAILED, Record, save, summary

MOST_STARTS = 8
"""Processes started, each after one that came down."""

GRACE = 20.0
"""Seconds that a process may take longer before it is ended."""


def main(arguments: Sequence[str], place: Place | None = None) -> int:
    """Run the check; with a place, in this process."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks gpu-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--minutes", type=float, default=8.0, help="time for everything (8)")
    made.add_argument("--out", type=Path, help="the JSON file; gpu-check.json without")
    given = made.parse_args(arguments)
    if not given.minutes > 0:
        made.error(f"--minutes must be > 0, got {given.minutes:g}")
    if place is None and not torch.cuda.is_available():
        print(
            "gpu-check needs an NVIDIA GPU and a CUDA build of torch; torch sees no GPU",
            file=sys.stderr,
        )
        return 2
    records: list[Record] = []
    try:
        if place is None:
            records = _in_processes(given.minutes)
        else:
            worker.run(place, 60 * given.minutes, lambda one: (print(one), records.append(one))[0])
    except KeyboardInterrupt:
        print("stopped; what is known so far:")
    about = (place or Place()).about()
    path = given.out or Path("gpu-check.json")
    proposed = proposals.proposed(records, about)
    save(path, records, about=about, proposed=proposed)
    print(summary(records))
    print(f"{len(proposed['rates'])} rates proposed; saved as {path}")
    return int(any(record.state in BAD for record in records))


def _in_processes(minutes: float, module: str = worker.__name__) -> list[Record]:
    """Run the worker, and another one after each that came down; return all records."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for _ in range(MOST_STARTS):
            spent = time.monotonic() - start
            words = ["--minutes", str(minutes), "--spent", f"{spent:.1f}", "--log", str(log)]
            process = subprocess.Popen([sys.executable, "-m", module, *words])
            try:
                status: int | None = process.wait(max(1.0, 60 * minutes + GRACE - spent))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = None
            if status == 0:
                break
            _blame(log, status)
            if status is None:
                break
        return [record for record in worker.read(log) if record.state != "begun"]


def _blame(log: Path, status: int | None) -> None:
    """Write what ended the process beside what had begun last."""
    records = worker.read(log)
    if not records or (status == worker.BROKEN and records[-1].state == FAILED):
        return
    last = records[-1]
    why = "was ended: the time was over" if status is None else f"ended with status {status}"
    record = Record(last.part, last.name, FAILED, f"the process {why}")
    print(record, flush=True)
    worker.append(log, record)
