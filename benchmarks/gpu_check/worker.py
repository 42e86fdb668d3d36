"""Runs the parts one after the other, each to its own time, and keeps what was found so far.

    python -m benchmarks.gpu_check.worker --minutes 8 --log FILE

A kernel can bring down the process, or leave the GPU in a state in which nothing runs any more. So
every record is written to the log at once, and what begins, too; the command that started this
process then starts another one, which goes on after what brought it down.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import FAILED, LATE, Emit, Item, Record

PARTS = {
    "machine": 0.05,
    "window": 0.20,
    "contract": 0.25,
    "compiled": 0.15,
    "speed": 0.30,
    "planning": 0.05,
}
"""The parts in order of worth, and their shares of the time; what one leaves, the next may use."""

BROKEN = 75
"""The exit status of a process whose GPU runs nothing any more."""


def items_of(part: str, place: Place) -> Iterable[Item]:
    """The items of a part; its module is imported only now.

    Raises:
        ImportError: It needs a library that is not there.
    """
    items: Iterable[Item] = importlib.import_module(f"benchmarks.gpu_check.{part}").items(place)
    return items


def run(
    place: Place,
    seconds: float,
    emit: Emit,
    begun: dict[str, list[str]] | None = None,
    begin: Emit = lambda record: None,
    spent: float = 0.0,
) -> bool:
    """Run what was not begun before.

    Args:
        place: Where.
        seconds: Time for all parts together.
        emit: Takes each record.
        begun: Names of the items of each part that were begun before.
        begin: Takes a record without a figure before each item.
        spent: Seconds of the time that have gone already.

    Returns:
        Whether the device still works.
    """
    start = time.monotonic() - spent
    share = 0.0
    for part, own in PARTS.items():
        share += own
        place.deadline = start + share * seconds
        try:
            left = 0
            for item in items_of(part, place):
                if item.name in (begun or {}).get(part, ()):
                    continue
                if place.late:
                    left += 1
                    continue
                begin(Record(part, item.name, "begun"))
                if not _run_item(part, item, place, emit):
                    return False
            if left:
                emit(Record(part, f"{left} more", LATE, "no time was left"))
        except Exception as error:  # the other parts are worth having whatever this one lacks
            emit(Record(part, "the whole part", FAILED, told(error)))
    return True


def _run_item(part: str, item: Item, place: Place, emit: Emit) -> bool:
    """Run an item; return whether the device still works."""
    try:
        for record in item.run():
            emit(record)
    except Exception as error:
        emit(Record(part, item.name, FAILED, told(error)))
        return works(place)
    return True


def told(error: Exception) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"


def works(place: Place) -> bool:
    """Return whether the device still runs anything: an illegal access makes it refuse for good."""
    try:
        torch.zeros(8, device=place.device).sum().item()
        place.finish()
    except RuntimeError:
        return False
    return True


def main() -> int:
    """Run as a process of its own."""
    made = argparse.ArgumentParser()
    made.add_argument("--minutes", type=float, required=True)
    made.add_argument("--spent", type=float, default=0.0, help="seconds that have gone already")
    made.add_argument("--log", type=Path, required=True)
    given = made.parse_args()
    records = read(given.log)
    begun: dict[str, list[str]] = {}
    place = Place()
    for record in records:
        begun.setdefault(record.part, []).append(record.name)
        place.found.update(record.numbers.get("seconds_of", {}))

    keep = partial(append, given.log)

    def emit(record: Record) -> None:
        print(record, flush=True)
        keep(record)

    return 0 if run(place, 60 * given.minutes, emit, begun, keep, given.spent) else BROKEN


def append(log: Path, record: Record) -> None:
    """Add a record to a log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(log: Path) -> list[Record]:
    """Return what is in a log, and what has begun; the last line may have been cut."""
    records = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            records.append(Record(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return records


if __name__ == "__main__":
    sys.exit(main())
