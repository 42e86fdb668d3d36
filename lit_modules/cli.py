"""The command line: `sparse-patterns fit|validate|test|predict|evaluate|generate|...`.

The one place where data sets and models meet. Large libraries are imported only once the command is
known, so that help is printed without delay.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from lit_modules.commands.errors import UsageError, did_you_mean, one_line

__all__ = ["main"]

TRAINER_COMMANDS = {
    "fit": "train a model, test it, and write a run folder",
    "validate": "evaluate a checkpoint on the validation part",
    "test": "evaluate a checkpoint on the test part",
    "predict": "run a checkpoint's predictions over a data set",
}
OTHER_COMMANDS = {
    "evaluate": "score a file of predictions against a data set",
    "generate": "continue a prompt with a trained language model",
    "make-long": "turn a pretrained encoder into one for long texts",
    "export": "turn a checkpoint of an encoder into a folder that transformers loads",
    "train-tokenizer": "make a tokenizer of your own text",
    "patterns": "list, show, explain or draw attention patterns",
    "data": "list the data sets, or describe one",
    "configs": "list, show or copy the configurations that are shipped",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after the program's name; None takes them from the process.

    Returns:
        The exit status: 0 done, 1 failed, 2 the command line is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _run(words, debug)
    except KeyboardInterrupt:
        if debug:
            raise
        print("sparse-patterns: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the pipe has ended, as in `sparse-patterns patterns list | head`. Python
        # would report that again while it closes standard output.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"sparse-patterns: error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _run(words: list[str], debug: bool) -> int:
    words = _import_modules(words)
    words, verbose = _take_verbose(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command in (*TRAINER_COMMANDS, "evaluate"):
        # Wrong names are refused before large libraries are imported.
        from lit_modules.commands.early.check import check

        rest = check(command, rest)
    if command in TRAINER_COMMANDS:
        from lit_modules.commands.train import train

        return train(command, rest, _DataSets(), debug, verbose)
    if command == "evaluate":
        from lit_modules.commands.evaluate import evaluate

        return evaluate(rest, _DataSets())
    if command == "generate":
        from lit_modules.commands.generate import generate

        return generate(rest, _DataSets())
    if command == "make-long":
        from lit_modules.commands.make_long import make_long

        return make_long(rest)
    if command == "export":
        from lit_modules.commands.export import export

        return export(rest)
    if command == "train-tokenizer":
        from lit_modules.commands.train_tokenizer import train_tokenizer

        return train_tokenizer(rest, _train_tokenizer)
    if command == "patterns":
        from lit_modules.commands.patterns import patterns

        return patterns(rest)
    if command == "data":
        from lit_modules.commands.data import data

        return data(rest, _DataSets())
    if command == "configs":
        from lit_modules.commands.configs.command import configs

        return configs(rest)
    commands = [*TRAINER_COMMANDS, *OTHER_COMMANDS]
    raise UsageError(
        f"unknown command {command!r}.{did_you_mean(command, commands)} "
        f"Commands: {', '.join(commands)}"
    )


class _DataSets:
    """The registry of data sets; imported, with all its libraries, when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        import datamodules.registry

        return getattr(datamodules.registry, name)


def _train_tokenizer(*args: Any, **kwargs: Any) -> Any:
    import datamodules.tokenizers.training

    return datamodules.tokenizers.training.train_tokenizer(*args, **kwargs)


def _take_verbose(words: list[str]) -> tuple[list[str], bool]:
    """Take `--verbose` out; with a value after it, it is Lightning's option of `test`."""
    rest, verbose = [], False
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if word == "--verbose" and after.lower() not in ("true", "false"):
            verbose = True
        else:
            rest.append(word)
    return rest, verbose


def _import_modules(words: list[str]) -> list[str]:
    """Import what `--import MODULE` names, so that it can register data sets and patterns."""
    rest = []
    iterator = iter(words)
    for word in iterator:
        if word != "--import" and not word.startswith("--import="):
            rest.append(word)
            continue
        module = word.partition("=")[2] or next(iterator, "")
        if not module:
            raise UsageError("--import needs the name of a module")
        # An installed program does not search the current folder for modules; `python -m` does.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UsageError(f"--import {module}: {error}") from error
    return rest


def _help() -> str:
    commands = {**TRAINER_COMMANDS, **OTHER_COMMANDS}
    width = max(map(len, commands))
    return "\n".join(
        [
            "usage: sparse-patterns COMMAND [--import MODULE] [--verbose] [--debug] ...",
            "",
            "commands:",
            *(f"  {name:<{width}}  {text}" for name, text in commands.items()),
            "",
            "`sparse-patterns COMMAND --help` lists what a command takes. --import loads a module",
            "of your own that registers patterns or data sets. --verbose repeats what was cut or",
            "left out of the data when it was prepared. --debug shows the traceback of an error.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
