"""Plain argument parsing for the commands that need no trainer."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from lit_modules.commands.errors import UsageError

__all__ = ["Parser", "mapping"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, raised instead of printed with the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line reports in one line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message} (see {self.prog} --help)")


def mapping(words: Iterable[str]) -> dict[str, Any]:
    """Read `FIELD=VALUE` words; values are YAML, so that numbers and lists get their types.

    Raises:
        UsageError: A word has no `=`, or its value is not YAML.
    """
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"expected FIELD=VALUE, got {word!r}")
        fields[name] = read_yaml(value, f"the value of {word!r} is nothing")
    return fields


def read_yaml(text: str, what: str) -> Any:
    """Read YAML.

    Args:
        text: What a user wrote.
        what: Start of the message, as in "X is nothing".

    Raises:
        UsageError: The text is not YAML.
    """
    from omegaconf import OmegaConf

    try:
        # A copy of plain data: references to other values are none here.
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]
    except Exception as error:  # of the YAML library under OmegaConf, which is none of ours
        raise UsageError(
            f"{what} that can be read as YAML or JSON; a bracket, comma or quote may be missing"
        ) from error
