"""`sparse-patterns make-long`: turn a BERT or RoBERTa encoder into a Longformer for long texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_modules.commands.arguments import Parser
from lit_modules.commands.early.check import check_plain_file
from lit_modules.commands.errors import UsageError

__all__ = ["make_long"]


def make_long(words: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    arguments = _parser().parse_args(words)
    if arguments.output.exists() and (
        not arguments.output.is_dir() or any(arguments.output.iterdir())
    ):
        raise UsageError(f"{arguments.output} exists and is not an empty folder")
    if not Path(arguments.input).exists():
        raise UsageError(f"{arguments.input}: no such file or folder")
    if arguments.config is not None:
        check_plain_file(arguments.config, "--config")
    from lit_modules import weights

    short = weights.load_encoder(arguments.input, arguments.config)
    long = weights.make_long(
        short, arguments.max_length, arguments.window, dilation=arguments.dilation
    )
    check = weights.check_long(short, long)
    weights.save_encoder(long, arguments.output)
    print(long.report)
    print(f"check      {check.difference:.1g} from the short one on {check.length} tokens")
    print(f"saved      {arguments.output}")
    return 0


def _numbers(text: str) -> int | list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be one number or one per layer, joined by commas, got {text!r}"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sparse-patterns make-long", description=__doc__)
    parser.add_argument("input", help="a folder or a file of weights")
    parser.add_argument("output", type=Path, help="a new folder, which transformers loads too")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens of the longest text")
    parser.add_argument(
        "--window",
        type=_numbers,
        default=512,
        help="keys besides the token itself, half on each side; one number, or one a layer: 64,128",
    )
    parser.add_argument(
        "--dilation", type=_numbers, default=1, help="distance of neighbouring keys, likewise"
    )
    parser.add_argument("--config", help="a config.json, if there is none beside the weights")
    return parser
