"""Errors caused by the user, reported in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "UsageError",
    "did_you_mean",
    "not_accepted",
    "one_line",
    "state_dict_mismatch",
    "without_types",
]

# By name, so that reporting an error does not import the libraries that define these.
_FORESEEN = ("CheckpointError", "MisconfigurationException")


class UsageError(Exception):
    """The command line itself is wrong; the message is one line for the user."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest allowed words, or the empty string.

    As `sparse_patterns.registry.did_you_mean`, which cannot be had without importing torch.
    """
    plain = {name.lower().replace("_", "-"): name for name in allowed}
    close = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=3, cutoff=0.65)
    return f" Did you mean {' or '.join(repr(plain[name]) for name in close)}?" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line; an unforeseen one with its type."""
    text = " ".join(str(error).split())
    kinds = UsageError | ValueError | OSError | ImportError | FloatingPointError
    foreseen = isinstance(error, kinds)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if text and (foreseen or type(error).__name__ in _FORESEEN):
        return text
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"


_KEY = re.compile(r'\s*(?:Parser key|Key) "([^"]*)":?\s*')
_TYPE = re.compile(
    r"Expected an? (<class '[\w.]+'>|[\w.]*\[.*\]|[\w.]+?)(?:\. Got value: (.*))?\.?"
)


def without_types(message: str) -> str:
    """Shorten the parser's report on a value to the option, what it may be, and what it is."""
    key = _KEY.match(message)
    name = key[1] if key else ""
    head, found, report = message.partition("Errors:")
    if found:
        reasons = _reasons(report)
        if not reasons:
            return message
        types = [_TYPE.fullmatch(reason) for reason in reasons]
        given = re.search(r"Given value: (.*)", report)
        if given and all(one is not None and one[2] is None for one in types):
            text = _expected([one[1] for one in types if one is not None], given[1])
        else:
            text = without_types(reasons[0])
        # The report on an argument of a class names it again, without the option of the class.
        if name and (_KEY.match(reasons[0]) or re.match(r"[\w.]+: expected ", reasons[0])):
            return f"{name}.{text}"
    else:
        text = re.split(r"\n\s*- ", head[key.end() :])[0] if key else head
        one = _TYPE.fullmatch(text)
        if one is not None and one[2] is not None:
            text = _expected([one[1]], one[2])
    text = " ".join(text.split()) if key else text
    return f"{name}: {text}" if name else text


def _reasons(report: str) -> list[str]:
    """Return one reason for each type that was tried; each begins with "- "."""
    reasons = [" ".join(part.split()) for part in re.split(r"\n\s*- ", "\n" + report)]
    reasons = [re.sub(r"\s*Given value.*$", "", reason) for reason in reasons]
    return [reason for reason in reasons if reason and "NoneType" not in reason]


def _expected(types: list[str], given: str) -> str:
    """Return what a value may be, and what it is."""
    allowed = ", ".join(map(_plain_type, types))
    return f"expected {'one of ' if ', ' in allowed else ''}{allowed}, got {given!r}"


def _plain_type(text: str) -> str:
    """Return `int` for `<class 'int'>`, and the values of a `typing.Literal`."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", text)
    return literal[1] if literal else re.sub(r"\b(?:[\w]+\.)+(\w+)", r"\1", text)


def not_accepted(message: str, fields: Iterable[str]) -> str:
    """Add similar names to a report of a field that does not exist."""
    found = re.search(r"Option '([^']*)' is not accepted", message)
    known = sorted(fields)
    if not found or not known:
        return message
    close = difflib.get_close_matches(found[1].split(".")[0], known, n=2)
    meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{message}.{meant} Known: {', '.join(known)}"


def state_dict_mismatch(message: str) -> str:
    """Shorten torch's report on a state dict that does not fit to one line."""
    lines = [line.strip() for line in message.splitlines()[1:] if line.strip()]
    if not lines:
        return message
    first = lines[0].rstrip(".")
    more = len(lines) - 1
    if first.startswith(("Missing key", "Unexpected key")):
        kind, _, names = first.partition(": ")
        listed = names.split(", ")
        first, more = f"{kind}: {listed[0]}", more + len(listed) - 1
    return (
        "the checkpoint is of another architecture than the model that is configured: "
        f"{first}{f' (and {more} more)' if more else ''}; "
        "use the config.yaml that was saved beside the checkpoints"
    )
