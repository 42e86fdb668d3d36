"""`sparse-patterns data list|describe`: list the data sets, or describe one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_modules.commands.arguments import Parser
from lit_modules.commands.early.registered import DATA_SETS

__all__ = ["data"]


def data(words: Sequence[str], datasets: Any) -> int:
    """Run one of the subcommands and return the exit status.

    Args:
        words: The rest of the command line.
        datasets: The registry of data sets; it has `describe(name)` and `names()`.
    """
    parser = Parser(prog="sparse-patterns data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every data set that has a name")
    describe = commands.add_parser("describe", help="the class of a name, and its fields")
    describe.add_argument("name")
    arguments = parser.parse_args(words)
    if arguments.command == "describe":
        DATA_SETS.check(arguments.name)
        print(datasets.describe(arguments.name))
        return 0
    summaries = DATA_SETS.summaries()
    if summaries is None:
        summaries = {name: datasets.describe(name).summary for name in datasets.names()}
    width = max(map(len, summaries), default=0)
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}")
    return 0
