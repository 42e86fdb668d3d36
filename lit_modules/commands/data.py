"""`sparse-patterns data list|describe|prepare`: the data sets, one of them, and its counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_modules.commands.arguments import Parser, mapping
from lit_modules.commands.configs.shipped import config_path
from lit_modules.commands.early.picture import parse_config
from lit_modules.commands.early.registered import DATA_SETS
from lit_modules.commands.errors import UsageError

__all__ = ["data"]


def data(words: Sequence[str], datasets: Any) -> int:
    """Run one of the subcommands and return the exit status.

    Args:
        words: The rest of the command line.
        datasets: The registry of data sets; it has `describe(name)`, `names()` and `get(name)`.
    """
    parser = Parser(prog="sparse-patterns data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every data set that has a name")
    describe = commands.add_parser("describe", help="the class of a name, and its fields")
    describe.add_argument("name")
    prepare = commands.add_parser(
        "prepare", help="read and encode the data; print what there is, was cut and left out"
    )
    prepare.add_argument("name", help="a data set, or a configuration that names one")
    prepare.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="fields of the data set")
    arguments = parser.parse_args(words)
    if arguments.command == "describe":
        DATA_SETS.check(arguments.name)
        print(datasets.describe(arguments.name))
    elif arguments.command == "prepare":
        _prepare(arguments.name, mapping(arguments.fields), datasets)
    else:
        _list(datasets)
    return 0


def _list(datasets: Any) -> None:
    summaries = DATA_SETS.summaries()
    if summaries is None:
        summaries = {name: datasets.describe(name).summary for name in datasets.names()}
    width = max(map(len, summaries), default=0)
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}")


def _prepare(name: str, fields: dict[str, Any], datasets: Any) -> None:
    given = name
    if "/" in name or Path(name).suffix in (".yaml", ".yml") or Path(name).is_file():
        name, fields = _configured(config_path(name), fields)
    DATA_SETS.check_fields(name, fields)
    prepared = datasets.get(name, **fields)
    prepared.verbose = True
    prepared.prepare_data()
    prepared.setup("fit")
    if not hasattr(prepared, "sizes"):
        print(f"{given} is prepared")
        return
    for split in prepared.splits():
        told = ", ".join(f"{number:,} {what}" for what, number in prepared.sizes(split).items())
        print(f"{type(prepared).__name__} {split}: {told}")


def _configured(path: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and fields of the data set of a configuration, laid under other fields."""
    from omegaconf import OmegaConf

    config = parse_config(Path(path).read_text(encoding="utf-8"), path)
    part = config.get("data")
    if isinstance(part, str):
        part = {"name": part}
    if not isinstance(part, dict) or not isinstance(part.get("name", part.get("class_path")), str):
        raise UsageError(f"{path} names no data set")
    if "class_path" in part:
        known = {path: name for name, path in DATA_SETS.paths().items()}
        named = known.get(str(part["class_path"]))
        if named is None:
            raise UsageError(f"{path}: {part['class_path']} has no name; prepare it by `fit`")
        part = {"name": named, **(part.get("init_args") or {})}
    config["data"] = {**part, **fields}
    # What refers to another part, such as ${model.encoder.path}, is read there.
    resolved: Any = OmegaConf.to_container(OmegaConf.create(config)["data"], resolve=True)
    return resolved.pop("name"), resolved
