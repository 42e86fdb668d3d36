"""`sparse-patterns patterns list|show|explain|draw`: look at a pattern before training with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_modules.commands.arguments import Parser, mapping, read_yaml
from lit_modules.commands.configs.shipped import pattern_path
from lit_modules.commands.early.check import check_file
from lit_modules.commands.early.registered import PATTERNS
from lit_modules.commands.errors import UsageError

__all__ = ["patterns"]


def patterns(words: Sequence[str]) -> int:
    """Run one of the subcommands and return the exit status."""
    arguments = _parser().parse_args(words)
    if hasattr(arguments, "pattern"):
        _check(arguments)
    run: Any = arguments.run
    return int(run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sparse-patterns patterns", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    listing = commands.add_parser("list", help="every pattern that has a name")
    listing.set_defaults(run=_list)

    describe = commands.add_parser("describe", help="the class of a name, and its fields")
    describe.add_argument("name")
    describe.set_defaults(run=_describe)

    for name, run, text in (
        ("show", _show, "print the pattern as text"),
        ("explain", _explain, "print which kernel would run it, and why not the others"),
        ("draw", _draw, "write a picture of every layer and group of heads"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "pattern",
            help="a registered or shipped name, a YAML file, or a pattern as text: '{window: ...}'",
        )
        command.add_argument(
            "fields", nargs="*", metavar="FIELD=VALUE", help="fields of the pattern"
        )
        known = _LENGTHS[name]
        command.add_argument("--length", type=int, default=None, help=f"tokens; {known} by default")
        command.add_argument("--heads", type=int, default=8)
        command.add_argument("--layers", type=int, default=12)
        command.set_defaults(run=run)
        if name != "draw":
            command.add_argument("--layer", type=int, default=0)
        if name == "explain":
            command.add_argument("--head-dim", type=int, default=64)
            command.add_argument("--training", action="store_true", help="with gradients")
            command.add_argument(
                "--kernel", default="auto", help="auto, tune (measures each), or a kernel's name"
            )
            command.add_argument("--device", default="cpu", help="cpu or cuda")
            command.add_argument("--dtype", default="float32", choices=_DTYPES)
            command.add_argument(
                "--ranks",
                type=int,
                default=None,
                help="also print what travels between so many processes that share the sequence",
            )
        if name != "explain":
            command.add_argument(
                "--scale",
                type=float,
                default=None,
                help="factor of windows, blocks and positions; without it the pattern is shown as "
                "it is where --length is given, and else made small enough to be seen",
            )
        if name == "draw":
            command.add_argument("--output", type=Path, default=None, help="default: NAME.png")
    return parser


_DTYPES = ("float32", "bfloat16", "float16", "float64")
_LENGTHS = {"show": 64, "explain": 4096, "draw": 512}


def _list(arguments: argparse.Namespace) -> int:
    summaries = PATTERNS.summaries()
    if summaries is None:
        import sparse_patterns as sp

        summaries = {name: sp.describe(name).summary for name in sp.names()}
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        print(f"{name:<{width}}  {summary}")
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    PATTERNS.check(arguments.name)
    import sparse_patterns as sp

    print(sp.describe(arguments.name))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import sparse_patterns as sp

    shown = sp.show(
        _pattern(arguments),
        arguments.length,
        heads=arguments.heads,
        layer=arguments.layer,
        layers=arguments.layers,
        scale=arguments.scale,
    )
    if shown is not None:
        print(shown)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    import torch

    import sparse_patterns as sp

    pattern, dtype = _pattern(arguments), getattr(torch, arguments.dtype)
    length = _LENGTHS["explain"] if arguments.length is None else arguments.length
    shape = {
        "heads": arguments.heads,
        "head_dim": arguments.head_dim,
        "layer": arguments.layer,
        "layers": arguments.layers,
    }
    parts: list[Any] = [
        sp.explain(
            pattern,
            length,
            **shape,
            needs_grad=arguments.training,
            kernel=arguments.kernel,
            device=arguments.device,
            dtype=dtype,
        )
    ]
    if arguments.ranks is not None:
        size, ranks = dtype.itemsize, arguments.ranks
        parts.append(sp.distributed.traffic(pattern, length, ranks, element_size=size, **shape))
    print(*parts, sep="\n")
    return 0


def _draw(arguments: argparse.Namespace) -> int:
    import sparse_patterns as sp

    length, scale = arguments.length, arguments.scale
    if length is None:
        length, scale = _LENGTHS["draw"], "auto" if scale is None else scale
    figure = sp.draw(
        _pattern(arguments), length, heads=arguments.heads, layers=arguments.layers, scale=scale
    )
    name = "pattern" if _is_written_out(arguments.pattern) else Path(arguments.pattern).stem
    output = arguments.output or Path(f"{name}.png")
    formats = sorted(figure.canvas.get_supported_filetypes())
    if output.suffix[1:] not in formats:
        raise UsageError(f"--output must end in one of .{', .'.join(formats)}, got {str(output)!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    print(output)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse a name, field or file that there is not, before torch is imported."""
    fields = mapping(arguments.fields)
    if _is_written_out(arguments.pattern):
        if fields:
            raise UsageError("FIELD=VALUE goes with a name, not with a whole pattern")
        _read(arguments.pattern)
        return
    path = Path(pattern_path(arguments.pattern))
    if path.suffix not in (".yaml", ".yml"):
        PATTERNS.check_fields(arguments.pattern, fields)
    elif fields:
        raise UsageError(f"FIELD=VALUE goes with a name, {path} is a whole pattern")
    else:
        check_file(str(path), "pattern")


def _is_written_out(pattern: str) -> bool:
    """Return whether a word is a pattern as text, not the name of one or of a file."""
    return pattern.lstrip()[:1] in ("{", "[") or ": " in pattern


def _pattern(arguments: argparse.Namespace) -> Any:
    """Build the pattern of a name with fields, of a YAML file, or of text."""
    import sparse_patterns as sp

    try:
        return sp.from_config(_config(arguments))
    except TypeError as error:
        raise UsageError(str(error)) from error


def _config(arguments: argparse.Namespace) -> Any:
    """Read the pattern as plain data."""
    if _is_written_out(arguments.pattern):
        return _read(arguments.pattern)
    path = Path(pattern_path(arguments.pattern))
    if path.suffix in (".yaml", ".yml"):
        from omegaconf import OmegaConf

        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return {"preset": arguments.pattern, **mapping(arguments.fields)}


def _read(text: str) -> Any:
    """Read a pattern that is written out.

    Raises:
        UsageError: The text is not YAML, which JSON is too.
    """
    return read_yaml(text, f"pattern {text!r} is neither a name nor a pattern")
