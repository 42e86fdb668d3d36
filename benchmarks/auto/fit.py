"""Rates of kernels on this processor, from grids that `python -m benchmarks auto` measured.

    python -m benchmarks.auto.fit grid.json > sparse_patterns/kernels/rates/processors.json

The time of a call is taken as a sum: how much a kernel does of each kind of work, times the seconds
of a unit. The seconds, none below zero, are those with the least squares of relative errors. Kinds
that no call of the grid has, and kernels that it does not hold, keep the numbers of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.auto import records
from benchmarks.auto.measuring import Outcome, request_of
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.rates.work import is_serial, table

SWEEPS = 20_000
"""Most passes over all kinds of work; columns that are nearly alike take many."""

Sample = tuple[Mapping[str, float], float]
"""Work by kind, and measured seconds."""


def samples_of(outcomes: Sequence[Outcome], threads: int) -> dict[str, list[Sample]]:
    """Return what was measured of each kernel that counts its work, as of one thread."""
    found: dict[str, list[Sample]] = {}
    for one in outcomes:
        request = request_of(one.cell)
        for name, seconds in one.measured.items():
            work = KERNELS[name].work(request, request.plan)
            if work is not None:
                own = {
                    kind: amount if is_serial(kind) else amount / threads
                    for kind, amount in work.items()
                    if amount
                }
                found.setdefault(name, []).append((own, seconds))
    return found


def fitted(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the seconds of a unit of each kind of work."""
    kinds = sorted({kind for work, _ in samples for kind in work})
    rows = [[work.get(kind, 0.0) / seconds for kind in kinds] for work, seconds in samples]
    shares = torch.tensor(rows, dtype=torch.float64)
    scale = shares.norm(dim=0)
    solved = not_negative_least_squares(shares / scale) / scale
    return dict(zip(kinds, solved.tolist(), strict=True))


def not_negative_least_squares(matrix: Tensor) -> Tensor:
    """Return `x >= 0` with the least squares of `matrix @ x - 1`, one coordinate after the other.

    Args:
        matrix: `(rows, columns)`, columns of length 1.
    """
    gram = (matrix.T @ matrix).tolist()
    right = matrix.sum(0).tolist()
    x = [0.0] * len(right)
    for _ in range(SWEEPS):
        moved = 0.0
        for index, row in enumerate(gram):
            step = right[index] - math.fsum(map(operator.mul, row, x))
            new = max(0.0, x[index] + step)
            moved, x[index] = max(moved, abs(new - x[index])), new
        if moved <= 1e-8 * max(x):
            break
    return torch.tensor(x, dtype=torch.float64)


def errors(samples: Sequence[Sample], rates: Mapping[str, float]) -> Tensor:
    """Return estimated over measured seconds, `(samples,)`."""
    return torch.tensor(
        [sum(rates[kind] * work[kind] for kind in work) / seconds for work, seconds in samples]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads grids and prints the file of rates; how well they fit goes to the error stream."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.auto.fit", description=__doc__)
    made.add_argument("grids", nargs="+", type=Path, metavar="FILE")
    made.add_argument("--date", required=True, help="when they were measured, for the source")
    given = made.parse_args(arguments)
    samples: dict[str, list[Sample]] = {}
    settings: dict[str, object] = {}
    for path in given.grids:
        settings, outcomes = records.load(path)
        for name, some in samples_of(outcomes, int(str(settings["threads"]))).items():
            samples.setdefault(name, []).extend(some)
    threads = "1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads"
    source = (
        f"measured {given.date} on {settings['processor']}, torch {settings['torch']}, "
        f"{threads}, {settings['clock']}"
    )
    result = {name: dict(line) for name, line in table().items()}
    for name, some in samples.items():
        rates = fitted(some)
        ratio = errors(some, rates)
        low, middle, high = (float(ratio.quantile(share)) for share in (0.1, 0.5, 0.9))
        print(
            f"{name}: {len(some)} calls, estimated over measured {low:.2f} / {middle:.2f} / "
            f"{high:.2f} (first tenth, median, last tenth)",
            file=sys.stderr,
        )
        before = result.get(name, {}).get("seconds", {})
        rates = {kind: rate if rate > 1e-15 else 0.0 for kind, rate in rates.items()}
        rounded = {kind: float(f"{rate:.3g}") for kind, rate in rates.items()}
        result[name] = {"source": source, "seconds": {**before, **rounded}}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
