"""Finds the shipped configurations: by name, wherever the package is installed."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from lit_modules.commands.errors import UsageError, did_you_mean

__all__ = ["config_path", "names", "pattern_path", "shipped_name", "shipped_path", "summary"]

_PATTERNS = "patterns/"


def names(part: str = "") -> tuple[str, ...]:
    """Return the names of all shipped configurations that begin with `part`, sorted."""
    root = _root()
    files = (file.relative_to(root).with_suffix("") for file in root.rglob("*.yaml"))
    return tuple(sorted(name for file in files if (name := file.as_posix()).startswith(part)))


def shipped_path(name: str) -> Path:
    """Return the file of a shipped configuration.

    Args:
        name: Folder and name without the ending, such as `lm/stdlib`.

    Raises:
        UsageError: There is none of this name; the message suggests near ones.
    """
    known = names()
    if name not in known:
        raise UsageError(
            f"no shipped configuration {name!r}.{_near(name, known)} "
            "`sparse-patterns configs list` prints all"
        )
    return _root() / f"{name}.yaml"


def shipped_name(path: str) -> str:
    """Return the name of a shipped configuration by its path; other paths as they are."""
    root = _root()
    if "{" in path or not Path(path).is_relative_to(root):
        return path
    return Path(path).relative_to(root).with_suffix("").as_posix()


def config_path(given: str) -> str:
    """Return the file that the value of `--config` means: a path, or else a shipped name.

    A value that is a configuration itself, as text in braces, is returned as it is.

    Raises:
        UsageError: There is neither a file nor a shipped configuration of this name.
    """
    if "{" in given or "\n" in given or Path(given).is_file():
        return given
    known = names()
    if given.startswith(_PATTERNS) and given in known:
        raise UsageError(
            f"--config {given} is a pattern, not a configuration of a run: give it as "
            f"--model.pattern {given}"
        )
    if given in known:
        return str(shipped_path(given))
    if Path(given).is_dir():
        raise UsageError(f"--config {given} is a folder, and must be a file or a shipped name")
    raise UsageError(
        f"--config {given}: there is no such file, and no shipped configuration of this name."
        f"{_near(given, known)} `sparse-patterns configs list` prints all"
    )


def pattern_path(given: str) -> str:
    """Return the file that a pattern's path or shipped name means; other words are returned as is.

    Args:
        given: A registered name, a file, a shipped name such as `patterns/window-and-sinks`, or a
            pattern as text.

    Raises:
        UsageError: It begins with `patterns/`, and there is neither such a file nor a shipped
            configuration of this name.
    """
    path = Path(given)
    if not given.startswith(_PATTERNS) or path.suffix or path.exists():
        return given
    return str(shipped_path(given))


def summary(name: str) -> str:
    """Return the first sentence of the comment at the top of a shipped configuration."""
    lines = []
    for line in shipped_path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    # A point before a number, as in "et al. 2020", ends no sentence.
    return re.split(r"\.(?:\s+(?=[A-Z`])|$)", " ".join(lines), maxsplit=1)[0]


def _root() -> Path:
    return Path(str(resources.files(__package__)))


def _near(given: str, known: tuple[str, ...]) -> str:
    """Suggest names: near the whole of what was given, or equal to it but for folder and ending."""
    last = given.replace("\\", "/").rpartition("/")[2].removesuffix(".yml").removesuffix(".yaml")
    same = [name for name in known if name.rpartition("/")[2] == last]
    if same:
        return f" Did you mean {' or '.join(map(repr, same))}?"
    return did_you_mean(given, known)
