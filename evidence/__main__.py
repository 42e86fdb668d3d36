"""The command line: `python -m evidence list|run|page|check`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from evidence import page, protocol, records, running, text


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    made = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the rows, and how much of each is recorded")
    run = commands.add_parser("run", help="measure a row; what is recorded is not measured again")
    run.add_argument("name", help="a row")
    run.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="only these arms")
    run.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="only these")
    how = run.add_mutually_exclusive_group()
    how.add_argument(
        "--again",
        action="store_true",
        help="measure what is recorded once more and tell whether it is the same",
    )
    how.add_argument(
        "--pilot", action="store_true", help="one arm with one seed, nothing recorded: how long?"
    )
    run.add_argument("--text", metavar="FILE", help="the Wikipedia sample, if gensim is not there")
    commands.add_parser("page", help="write the page and its plots from what is recorded")
    commands.add_parser("check", help="tell whether the page is what the records give")
    for one in commands.choices.values():
        one.add_argument("--results", type=Path, default=records.RESULTS, metavar="FOLDER")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 1 when figures differ from what is recorded or written."""
    made = parser()
    given = made.parse_args(arguments)
    try:
        if given.command == "list":
            return _list(given.results)
        if given.command == "run":
            return _run(given)
        if given.command == "page":
            page.write(given.results)
            return 0
        wrong = page.wrong(given.results)
    except (ValueError, FileNotFoundError) as error:
        print(f"evidence: error: {error}", file=sys.stderr)
        return 2
    for line in wrong:
        print(line, file=sys.stderr)
    print("the page is not what the records give" if wrong else "page and records agree")
    return int(bool(wrong))


def _list(results: Path) -> int:
    for name in protocol.names():
        one = protocol.row(name).protocol
        there, many = len(records.read(results, one)), len(one.arms) * len(one.seeds)
        print(f"{name:<24}{there:>3} of {many:<3}  {one.question}")
    return 0


def _run(given: argparse.Namespace) -> int:
    row = protocol.row(given.name)
    chosen = running.choose(row, given.arms, given.seeds)
    _quieten()
    if given.text:
        os.environ[text.VARIABLE] = given.text
    say = _say
    if given.pilot:
        running.pilot(row, chosen, say)
        return 0
    if given.again:
        return int(running.again(row, chosen, given.results, say) > 0)
    running.run(row, chosen, given.results, say)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _quieten() -> None:
    """Silence what the trainer tells of the machine and of settings that are intended."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", module="torch.*")


if __name__ == "__main__":
    sys.exit(main())
