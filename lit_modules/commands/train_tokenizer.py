"""`sparse-patterns train-tokenizer`: byte-level BPE of your own text, with RoBERTa's specials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_modules.commands.arguments import Parser
from lit_modules.commands.early.check import check_file
from lit_modules.commands.errors import UsageError

__all__ = ["train_tokenizer"]


def train_tokenizer(words: Sequence[str], train: Callable[..., Any]) -> int:
    """Run the command and return the exit status.

    Args:
        words: The rest of the command line.
        train: What trains a tokenizer: `datamodules.tokenizers.training.train_tokenizer`.
    """
    arguments = _parser().parse_args(words)
    if arguments.output.exists():
        raise UsageError(f"--output {arguments.output} exists; choose another name")
    for entry in arguments.files:
        check_file(entry, "files")
    done = train(
        arguments.files,
        arguments.output,
        arguments.vocabulary_size,
        documents=arguments.documents,
        field=arguments.field,
        min_frequency=arguments.min_frequency,
        progress=True,
    )
    print(f"trained    {done.vocabulary_size:,} tokens on {done.characters:,} characters")
    print(f"saved      {done.path}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="sparse-patterns train-tokenizer", description=__doc__)
    parser.add_argument("files", nargs="+", help="files, folders and globs of text")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--vocabulary-size", type=int, default=32_000, help="most tokens")
    parser.add_argument(
        "--documents",
        choices=("files", "lines", "jsonl"),
        default="files",
        help="what a document is",
    )
    parser.add_argument("--field", default="text", help="the field of a jsonlines record")
    parser.add_argument(
        "--min-frequency", type=int, default=2, help="how often a pair must occur to be merged"
    )
    return parser
