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
        UsageError: A word has no `=`.
    """
    from omegaconf import OmegaConf

    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"expected FIELD=VALUE, got {word!r}")
        read = OmegaConf.create(f"value: {value}")
        fields[name] = OmegaConf.to_container(read)["value"]
    return fields
