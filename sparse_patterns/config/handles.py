"""Patterns as strings and back, so that they can be constants of a compiled or exported program."""

from __future__ import annotations

import json
from collections import OrderedDict
from itertools import count
from threading import RLock

from sparse_patterns.spec.atoms import Rule
from sparse_patterns.spec.base import Pattern, uses

MAX_KEPT = 1024
"""Patterns kept; the one not used for longest goes first."""

_kept: dict[str, Pattern] = {}
_keys: OrderedDict[Pattern, str] = OrderedDict()
_rule_number = count()
_lock = RLock()


def intern(pattern: Pattern) -> str:
    """Return the string of a pattern.

    It is the pattern's configuration, or a number of this process for one with a `Rule`.
    """
    with _lock:
        if pattern in _keys:
            return _keep(pattern, _keys[pattern])
        if uses(pattern, Rule):
            return _keep(pattern, f"rule-{next(_rule_number)}")
        from sparse_patterns.config.codec import to_config

        return _keep(pattern, json.dumps(to_config(pattern)))


# What `torch.compiler.assume_constant_result` does, which would import the whole compiler to do it.
intern._dynamo_marked_constant = True  # type: ignore[attr-defined]


def look_up(key: str) -> Pattern:
    """Return the pattern of a string made by `intern`.

    Raises:
        ValueError: A pattern with a `Rule`, made in another process or too many patterns ago.
    """
    with _lock:
        if key in _kept:
            pattern = _kept[key]
        elif key.startswith("rule-"):
            raise ValueError(
                f"pattern {key!r} holds a Rule: it is known only to the process that made it, and "
                f"to that only while fewer than {MAX_KEPT} other patterns are used"
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
