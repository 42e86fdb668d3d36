"""Patterns as strings and back, so that they can be constants of a compiled or exported program."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

import torch

from sparse_patterns.spec.atoms import Rule
from sparse_patterns.spec.base import Pattern, uses

MAX_KEPT = 1024
"""Patterns kept; the one not used for longest goes first."""

_HANDLE = "rule-"
"""How handles start that stand for nothing in another process."""

_kept: dict[str, Pattern] = {}
_keys: OrderedDict[Pattern, str] = OrderedDict()
_lock = RLock()


Function = TypeVar("Function", bound=Callable[..., Any])


def as_constant(function: Function) -> Function:
    """Have `torch.compile` run a function while it traces, and take its result for a constant.

    That is what `torch.compiler.assume_constant_result` does, which would import the whole compiler
    to do it. The arguments must be constants themselves: patterns, numbers and texts.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def intern(pattern: Pattern) -> str:
    """Return the string of a pattern.

    It is the pattern's configuration, in which the function of a `Rule` has its import path. Where
    that cannot be written (a lambda, a function of the script being run), it is a handle that no
    other pattern has, in this process or in another.

    Raises:
        ValueError: Such a pattern, inside of `torch.export`: the program could not find it again.
    """
    if not _is_whole(pattern):
        _refuse_unfinished()
    with _lock:
        key = _keys.get(pattern)
        if key is None:
            key = _written(pattern) or f"{_HANDLE}{uuid4().hex}"
        if key.startswith(_HANDLE) and torch.compiler.is_exporting():
            raise ValueError(
                f"pattern {pattern!r} cannot be exported: the function of its Rule has no import "
                "path, by which the program would find it again; define the function at the top "
                "level of a module that is not the script being run"
            )
        return _keep(pattern, key)


def _written(pattern: Pattern) -> str | None:
    """Return the pattern as text, None for a rule that cannot be found again by name."""
    from sparse_patterns.config.codec import to_config

    if not uses(pattern, Rule):
        return json.dumps(to_config(pattern))
    try:
        key = json.dumps(to_config(pattern))
    except ValueError:
        return None
    # A module that was loaded anew gives its functions the names of the former ones.
    return key if _kept.get(key, pattern) == pattern else None


def _is_whole(pattern: Pattern) -> bool:
    """Whether the fields are there, which `torch.compile` leaves out while it traces a function."""
    return all(field.name in vars(pattern) for field in dataclasses.fields(pattern))


def _refuse_unfinished() -> NoReturn:
    """Have the compiler run this call of attention by itself, with the pattern that was made.

    Under `fullgraph=True`, which forbids that, it is the error that the user sees.
    """
    from torch._dynamo.exc import Unsupported

    raise Unsupported(
        "pattern was made inside the compiled function; make it outside, so that it is a constant "
        "of the program"
    )


as_constant(intern)


def look_up(key: str) -> Pattern:
    """Return the pattern of a string made by `intern`.

    Raises:
        ValueError: A handle made in another process or too many patterns ago, or the function of a
            `Rule` is not where it was.
    """
    with _lock:
        if key in _kept:
            pattern = _kept[key]
        elif key.startswith(_HANDLE):
            raise ValueError(
                f"pattern {key!r} holds a Rule whose function has no import path: it is known only "
                "to the process that made it, and to that only while fewer than "
                f"{MAX_KEPT} other patterns are used"
            )
        else:
            from sparse_patterns.config.codec import from_config

            pattern = from_config(json.loads(key))
        _keep(pattern, key)
        return pattern


def _keep(pattern: Pattern, key: str) -> str:
    """Note both ways, as used last."""
    _keys[pattern] = key
    _kept[key] = pattern
    _keys.move_to_end(pattern)
    while len(_keys) > MAX_KEPT:
        _, its_key = _keys.popitem(last=False)
        _kept.pop(its_key, None)
    return key
