"""Measuring a row: arm by arm and seed by seed, each recorded as soon as it is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evidence import records
from evidence.protocol import Row
from evidence.records import Record
from evidence.statistics import spread

WORK = Path(__file__).parents[1] / "build" / "evidence"
"""Where rows keep checkpoints; outside of version control."""


def choose(row: Row, arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return which arms are measured with which seeds, one seed after another.

    Args:
        row: The row.
        arms: Names of arms; none stands for all.
        seeds: Seeds; none stands for all of the protocol.

    Raises:
        ValueError: An arm or a seed is none of the protocol's.
    """
    protocol = row.protocol
    for given, allowed, what in ((arms, protocol.arms, "arms"), (seeds, protocol.seeds, "seeds")):
        for one in given:
            if one not in allowed:
                known = ", ".join(str(each) for each in allowed)
                raise ValueError(f"--{what} must be of {known}, got {one}")
    # All arms of a seed before the next seed: an interrupted row has pairs to compare.
    return [(arm, seed) for seed in seeds or protocol.seeds for arm in arms or protocol.arms]


def measure(row: Row, arm: str, seed: int) -> Record:
    """Measure one arm with one seed, on one thread and with deterministic algorithms."""
    import lightning
    import torch

    protocol = row.protocol
    folder = WORK / protocol.name / f"{arm}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        lightning.seed_everything(seed, workers=True, verbose=False)
        wall, processor = time.perf_counter(), time.process_time()
        figures = row.measure(protocol.configuration(arm), seed, folder)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        about = records.about()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
    return Record(
        row=protocol.name,
        arm=arm,
        seed=seed,
        configuration=protocol.configuration(arm),
        figures=figures,
        wall_seconds=round(wall, 2),
        processor_seconds=round(processor, 2),
        about=about,
    )


def run(
    row: Row,
    chosen: Sequence[tuple[str, int]],
    results: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Measure and record what is not recorded yet; return how many were measured."""
    there = records.read(results, row.protocol)
    missing = [key for key in chosen if key not in there]
    say(f"{row.protocol.name}: {len(chosen) - len(missing)} recorded, {len(missing)} to measure")
    for arm, seed in missing:
        record = measure(row, arm, seed)
        records.write(results, record)
        say(f"{_told(row, record)}")
    return len(missing)


def again(
    row: Row,
    chosen: Sequence[tuple[str, int]],
    results: Path,
    say: Callable[[str], None] = print,
) -> int:
    """Measure what is recorded once more and compare; return how many differ.

    On the machine and at the commit that a record names, its figures come again bit for bit. Other
    sources may add up in another order: it is told how far the seeds of the arm lie apart.

    Raises:
        ValueError: Nothing of what is asked for is recorded.
    """
    there = records.read(results, row.protocol)
    recorded = [key for key in chosen if key in there]
    if not recorded:
        raise ValueError(f"--again needs records: there are none of {row.protocol.name} to compare")
    different = 0
    for arm, seed in recorded:
        then, now = there[arm, seed], measure(row, arm, seed)
        seeds = [record.figures for (name, _), record in there.items() if name == arm]
        found = differences(row, then.figures, now.figures, seeds)
        different += bool(found)
        verdict = "; ".join(found) if found else "bit for bit as recorded"
        if found and now.about["commit"] != then.about["commit"]:
            verdict += f"; recorded at commit {then.about['commit']}, now {now.about['commit']}"
        say(f"{row.protocol.name} {arm} seed {seed}: {verdict}")
    return different


def differences(
    row: Row,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    seeds: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return in words which exact figures differ between two measurements; [] where none does.

    Args:
        row: The row.
        then: Figures of the one measurement.
        now: Figures of the other.
        seeds: Figures of all seeds of the arm; their standard deviation stands beside a difference.
    """
    curve = row.protocol.curve
    shown = (*row.protocol.metrics, *([curve] if curve else ()))
    measured = {one.name for one in shown if not one.exact}
    found = []
    for name in sorted((set(then) | set(now)) - measured):
        old: Any = then.get(name)
        new: Any = now.get(name)
        if old == new:
            continue
        if not _numbers(old, new):
            found.append(f"{name}: not the same")
            continue
        by = f"{new - old:+.3g}"
        if len(seeds) > 1:
            by += f"; {len(seeds)} seeds: ± {spread([f[name] for f in seeds]).deviation:.3g}"
        found.append(f"{name}: {old} then, {new} now ({by})")
    return found


def pilot(row: Row, chosen: Sequence[tuple[str, int]], say: Callable[[str], None] = print) -> None:
    """Measure the first of what is asked for, record nothing, and forecast the whole row."""
    arm, seed = chosen[0]
    record = measure(row, arm, seed)
    say(_told(row, record))
    many = len(row.protocol.arms) * len(row.protocol.seeds)
    minutes = many * record.processor_seconds / 60
    say(f"the whole row: {many} times, {minutes:.0f} minutes of one processor if all are alike")


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _told(row: Row, record: Record) -> str:
    figures = ", ".join(
        f"{metric.label} {record.figures[metric.name]:.{metric.digits}f}"
        for metric in row.protocol.metrics
    )
    return (
        f"{record.row} {record.arm} seed {record.seed}: {figures}; "
        f"{record.wall_seconds:.0f} s, processor {record.processor_seconds:.0f} s"
    )
