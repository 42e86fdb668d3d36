"""What was measured, one JSON file for each arm and seed; written in full or not at all."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from evidence.protocol import Protocol
from sparse_patterns.config.files import whole_file

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Record:
    """One arm measured with one seed.

    Args:
        row: Name of the row.
        arm: Name of the arm.
        seed: The seed.
        configuration: That of the arm and what all arms share, as the protocol had it.
        figures: What was measured.
        wall_seconds: Time by the clock; other programs may have run beside.
        processor_seconds: Time of the processor.
        about: Date, versions and machine.
    """

    row: str
    arm: str
    seed: int
    configuration: Mapping[str, Any]
    figures: Mapping[str, Any]
    wall_seconds: float
    processor_seconds: float
    about: Mapping[str, Any]


def path_of(folder: Path, row: str, arm: str, seed: int) -> Path:
    """Return where the record of an arm and a seed is kept."""
    return folder / row / f"{arm}-seed{seed}.json"


def write(folder: Path, record: Record) -> Path:
    """Write a record and return its path; a process that is killed leaves no partial file."""
    path = path_of(folder, record.row, record.arm, record.seed)
    # A number that is not finite is an error here: the page could not tell it from a missing one.
    text = json.dumps(vars(record), indent=1, allow_nan=False) + "\n"
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, protocol: Protocol) -> dict[tuple[str, int], Record]:
    """Return the records of a row that are there, by arm and seed.

    Raises:
        ValueError: A file is not a record, belongs to no arm and seed of the protocol, was measured
            with another configuration than the protocol has now, or lacks a figure.
    """
    found: dict[tuple[str, int], Record] = {}
    for arm in protocol.arms:
        configuration = protocol.configuration(arm)
        for seed in protocol.seeds:
            path = path_of(folder, protocol.name, arm, seed)
            if path.is_file():
                found[arm, seed] = _read(path, protocol, (protocol.name, arm, seed), configuration)
    expected = {path_of(folder, protocol.name, *key).name for key in found}
    for path in sorted((folder / protocol.name).glob("*.json")):
        if path.name not in expected:
            raise ValueError(f"{path} belongs to no arm and seed of {protocol.name}")
    return found


def _read(
    path: Path, protocol: Protocol, key: tuple[str, str, int], configuration: dict[str, Any]
) -> Record:
    try:
        record = Record(**json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record: {error}") from error
    if (record.row, record.arm, record.seed) != key:
        raise ValueError(f"{path} holds {record.row} {record.arm} {record.seed}")
    if record.configuration != json.loads(json.dumps(configuration)):
        raise ValueError(
            f"{path} was measured with another configuration than the protocol has now; "
            f"measure it again: python -m evidence run {record.row}"
        )
    wanted = [metric.name for metric in protocol.metrics]
    wanted += [protocol.curve.name] if protocol.curve else []
    for name in (*wanted, *protocol.same):
        if name not in record.figures:
            raise ValueError(f"{path} has no figure {name!r}")
    return record


def about() -> dict[str, Any]:
    """Return the date, the versions and the machine, for a record."""
    import lightning
    import torch

    import sparse_patterns

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "sparse_patterns": sparse_patterns.__version__,
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _commit() -> str:
    """Return the commit of the source, marked where files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
