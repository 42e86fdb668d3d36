"""Where `kernel="auto"` chooses wrongly, on a grid of patterns, lengths, batches, types and passes.

    python -m benchmarks auto --threads 1 --processor-time --out grid.json

Every kernel that can serve a call takes turns with the others in one process. A choice is wrong
where it takes more than 1.10 times the time of the fastest. A kernel that by its own estimate takes
too long is left out, which the file says. 12 heads of size 64.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.auto import grid, records
from benchmarks.auto.grid import Cell
from benchmarks.auto.measuring import WRONG, Outcome, measure
from benchmarks.table import milliseconds
from benchmarks.timing import Effort

RESULTS = Path(__file__).parents[1] / "results"


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks auto",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--patterns", nargs="+", choices=grid.PATTERNS, metavar="NAME")
    made.add_argument("--lengths", nargs="+", type=int, metavar="TOKENS")
    made.add_argument("--batches", nargs="+", type=int, metavar="EXAMPLES")
    made.add_argument("--types", nargs="+", choices=grid.TYPES, default=grid.TYPES)
    made.add_argument("--large", action="store_true", help="many more lengths and batches")
    made.add_argument("--rounds", type=int, default=25, help="most rounds a call")
    made.add_argument("--budget", type=float, default=0.3, help="seconds a call")
    made.add_argument(
        "--longest", type=float, default=1.0, help="seconds beyond which a kernel is not timed"
    )
    made.add_argument("--threads", type=int, default=2)
    made.add_argument(
        "--processor-time",
        action="store_true",
        help="time the processor, not the wall clock: for a busy machine, with --threads 1",
    )
    made.add_argument("--out", type=Path, help="the JSON file; a dated one in results/ without")
    made.add_argument(
        "--resume", action="store_true", help="go on with the file: its calls are not timed again"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 whatever the choices are."""
    made = parser()
    given = made.parse_args(arguments)
    lengths = given.lengths or (grid.EVERY_LENGTH if given.large else grid.LENGTHS)
    batches = given.batches or (grid.EVERY_BATCH if given.large else grid.BATCHES)
    if min(*lengths, *batches, given.rounds, given.threads) < 1:
        made.error("--lengths, --batches, --rounds and --threads must be at least 1")
    if given.resume and given.out is None:
        made.error("--resume needs --out, the file to go on with")
    torch.set_num_threads(given.threads)
    about = machine.about()
    settings = {name: about[name] for name in ("processor", "torch", "threads")}
    settings["clock"] = "processor time" if given.processor_time else "wall clock"
    name = datetime.datetime.now(datetime.timezone.utc).strftime("auto-%Y-%m-%d-%H%M%S.json")
    path = given.out or RESULTS / name
    outcomes: list[Outcome] = []
    if given.resume and path.exists():
        try:
            outcomes = records.resumed(path, settings)
        except ValueError as error:
            made.error(str(error))
    elif path.exists():
        made.error(f"{path} exists: add --resume to go on with it, or name another file")
    print(", ".join(f"{name} {value}" for name, value in settings.items()), flush=True)
    effort = Effort(given.rounds, given.budget, given.processor_time)
    every = list(grid.cells(given.patterns or list(grid.PATTERNS), lengths, batches, given.types))
    for outcome in measured(every, outcomes, effort, given.longest):
        outcomes.append(outcome)
        records.save(path, settings, outcomes)
        if outcome.wrong:
            print(f"wrong  {told(outcome)}", flush=True)
    wanted = set(every)
    print(summary([one for one in outcomes if one.cell in wanted]))
    print(f"saved as {path}")
    return 0


def measured(
    every: Sequence[Cell], before: Sequence[Outcome], effort: Effort, longest_s: float
) -> Iterator[Outcome]:
    """Yield the outcome of each call that has none yet."""
    done = {one.cell for one in before}
    for cell in every:
        if cell not in done:
            yield measure(cell, effort, longest_s)


def told(outcome: Outcome) -> str:
    """One line about a call."""
    assert outcome.loss is not None
    assert outcome.best is not None
    times = ", ".join(
        f"{name} {milliseconds(seconds)} (declared {milliseconds(outcome.declared[name])})"
        for name, seconds in sorted(outcome.measured.items(), key=lambda item: item[1])
    )
    return f"{outcome.cell}: {outcome.chosen} is {outcome.loss:.2f}x the time of {times}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """A few lines about all calls."""
    losses = [one.loss for one in outcomes if one.loss is not None]
    wrong = [one for one in outcomes if one.wrong]
    lines = [
        f"{len(wrong)} of {len(losses)} calls with a choice are wrong (more than {WRONG:g}x); "
        f"{len(outcomes) - len(losses)} calls leave one kernel only, by the estimates of the others"
    ]
    if losses:
        worst = max(losses)
        mean = math.exp(math.fsum(map(math.log, losses)) / len(losses))
        lines.append(f"time of the choice over the fastest: mean {mean:.3f}x, worst {worst:.2f}x")
    by_pattern: dict[str, list[Outcome]] = {}
    for one in wrong:
        by_pattern.setdefault(one.cell.pattern, []).append(one)
    for pattern, some in by_pattern.items():
        most = max(one.loss or 0 for one in some)
        lines.append(f"  {pattern}: {len(some)} wrong, worst {most:.2f}x")
    ratios = [
        (name, one.measured[name] / one.declared[name]) for one in outcomes for name in one.measured
    ]
    for kernel in dict.fromkeys(name for name, _ in ratios):
        own = sorted(ratio for name, ratio in ratios if name == kernel)
        low, middle, high = (own[int(share * (len(own) - 1))] for share in (0.1, 0.5, 0.9))
        lines.append(
            f"  measured over declared, {kernel}: {low:.2f} / {middle:.2f} / {high:.2f} "
            f"(first tenth, median, last tenth of {len(own)})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
