"""The command line: runs suites, prints each row as it is known, saves all of them as JSON.

`auto` and `gpu-check` as the first word are commands of their own (see `benchmarks.auto.command`
and `benchmarks.gpu_check.command`).
"""

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import machine, table
from benchmarks.suites import DEFAULT, SUITES, Case, Options, cases_of, missing, select
from benchmarks.timing import Effort

RESULTS = Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    options, effort = Options(), Effort()
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument(
        "suites", nargs="*", help=f"of {', '.join(SUITES)}; without any: {', '.join(DEFAULT)}"
    )
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="cases by name")
    made.add_argument("--list", action="store_true", help="list the cases and stop")
    made.add_argument("--lengths", nargs="+", type=int, default=options.lengths, metavar="TOKENS")
    made.add_argument("--rounds", type=int, default=effort.rounds, help="most rounds a comparison")
    made.add_argument("--budget", type=float, default=effort.budget_s, help="seconds a comparison")
    made.add_argument("--threads", type=int, default=options.threads)
    made.add_argument(
        "--processor-time",
        action="store_true",
        help="time the processor, not the wall clock: for a busy machine, with --threads 1",
    )
    made.add_argument("--out", type=Path, help="the JSON file; a dated one in results/ without")
    return made


def rows_of(cases: Sequence[Case], options: Options) -> Iterator[table.Row]:
    """Every row of the cases; one that fails gives a row that says so, and the rest still run."""
    for case in cases:
        try:
            yield from case.measure(options)
        except Exception as error:  # whatever it is, the other figures are worth having
            yield table.Row(case.name, "failed", note=f"{type(error).__name__}: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 when a case failed, whatever the figures are."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["gpu-check"]:
        from benchmarks.gpu_check.command import main as check

        return check(words[1:])
    if words[:1] == ["auto"]:
        from benchmarks.auto.command import main as grid_of_auto

        return grid_of_auto(words[1:])
    made = parser()
    given = made.parse_args(words)
    if min(given.lengths) < 1 or given.rounds < 1 or given.threads < 1:
        made.error("--lengths, --rounds and --threads must be at least 1")
    try:
        cases = select([c for name in given.suites or DEFAULT for c in cases_of(name)], given.only)
    except ValueError as error:
        made.error(str(error))
    if given.list:
        for case in cases:
            print(f"{case.name:<28}{case.what}")
        return 0
    for name in given.suites:
        lacking = missing(name)
        if lacking:
            print(lacking, file=sys.stderr)
            return 2

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    effort = Effort(given.rounds, given.budget, given.processor_time)
    options = Options(tuple(sorted(set(given.lengths))), effort, given.threads)
    about = machine.about()
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print(table.header(), flush=True)
    rows = []
    for row in rows_of(cases, options):
        print(table.line(row.cells()), flush=True)
        rows.append(row)
    print()
    for row in rows:
        if row.note:
            print(f"{row.case}: {row.note}")

    name = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M%S.json")
    path = given.out or RESULTS / name
    table.save(path, rows, about)
    goals = [row.met for row in rows if row.met is not None]
    print(f"{sum(goals)} of {len(goals)} goals met; saved as {path}")
    return int(any(row.figure == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
