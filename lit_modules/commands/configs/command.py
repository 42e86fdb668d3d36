"""`sparse-patterns configs list|show|copy`: the configurations that are shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_modules.commands.arguments import Parser
from lit_modules.commands.configs.shipped import names, shipped_path, summary
from lit_modules.commands.errors import UsageError

__all__ = ["configs"]


def configs(words: Sequence[str]) -> int:
    """Run one of the subcommands and return the exit status.

    Args:
        words: The rest of the command line.
    """
    parser = Parser(prog="sparse-patterns configs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every name, with what it is")
    listing.add_argument("part", nargs="?", default="", help="only names that begin so: tasks/")
    show = commands.add_parser("show", help="print one")
    show.add_argument("name", help="such as lm/stdlib")
    copy = commands.add_parser("copy", help="write one to a file of your own, to change it there")
    copy.add_argument("name", help="such as lm/stdlib")
    copy.add_argument("file", type=Path, help="a new file, or a folder")
    arguments = parser.parse_args(words)
    if arguments.command == "list":
        _list(arguments.part)
    elif arguments.command == "show":
        print(shipped_path(arguments.name).read_text(encoding="utf-8").rstrip("\n"))
    else:
        _copy(arguments.name, arguments.file)
    return 0


def _list(part: str) -> None:
    found = names(part)
    if not found:
        folders = sorted({name.partition("/")[0] + "/" for name in names()})
        raise UsageError(
            f"no shipped configuration begins with {part!r}; the folders are {', '.join(folders)}"
        )
    width = max(map(len, found))
    for name in found:
        print(f"{name:<{width}}  {summary(name)}")


def _copy(name: str, file: Path) -> None:
    shipped = shipped_path(name)
    if file.is_dir():
        file = file / shipped.name
    if file.exists():
        raise UsageError(f"{file} exists; choose another name")
    if not file.parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")
    file.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    option = "--model.pattern" if name.startswith("patterns/") else "--config"
    print(f"{file}  run it with: sparse-patterns fit {option} {file}")
