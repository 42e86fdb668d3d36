"""Patterns as strings and back, so that they can be constants of a compiled or exported program."""

from __future__ import annotations

import json
from collections import OrderedDict

from sparse_patterns.algebra import uses
from sparse_patterns.patterns import Pattern, Rule

_MAX_KEPT = 1024
_kept: OrderedDict[str, Pattern] = OrderedDict()
_keys: OrderedDict[Pattern, str] = OrderedDict()
_rules: dict[Pattern, str] = {}


def intern(pattern: Pattern) -> str:
    """Return the string of a pattern.

    It is the pattern's configuration, or a number of this process for one with a `Rule`.
    """
    if uses(pattern, Rule):
        key = _rules.setdefault(pattern, f"rule-{len(_rules)}")
        _kept.setdefault(key, pattern)
        return key
    if pattern not in _keys:
        from sparse_patterns.codec import to_config

        _keep(pattern, json.dumps(to_config(pattern)))
    return _keys[pattern]


# What `torch.compiler.assume_constant_result` does, which would import the whole compiler to do it.
intern._dynamo_marked_constant = True  # type: ignore[attr-defined]


def look_up(key: str) -> Pattern:
    """Return the pattern of a string made by `intern`.

    Raises:
        ValueError: A pattern with a `Rule`, made in another process.
    """
    if key not in _kept:
        if key.startswith("rule-"):
            raise ValueError(
                f"pattern {key!r} holds a Rule and is known only to the process that made it"
            )
        from sparse_patterns.codec import from_config

        _keep(from_config(json.loads(key)), key)
    return _kept[key]


def _keep(pattern: Pattern, key: str) -> None:
    _keys[pattern] = key
    _kept[key] = pattern
    while len(_keys) > _MAX_KEPT:
        _, its_key = _keys.popitem(last=False)
        _kept.pop(its_key, None)
