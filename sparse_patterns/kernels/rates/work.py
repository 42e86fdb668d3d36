"""Reads `processors.json`: what a unit of each kind of work takes a kernel on a processor.

A kernel names the work of a call by kind, as its calls of an operator, its pairs, and the elements
that it copies (see `Kernel.work`). The file holds seconds for each kind, with where they come from;
`python -m benchmarks.auto.fit` makes its lines from a grid of measured calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import torch

Work = Mapping[str, float]
"""Amounts of work by kind."""

SERIAL = frozenset({"call", "strip", "stack", "piece", "turn", "pass"})
"""Kinds, by their last word, that are starts of operators: threads do not share them."""


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, Any]]:
    """Return what is in the file, by kernel."""
    text = resources.files(__package__).joinpath("processors.json").read_text(encoding="utf-8")
    made: dict[str, dict[str, Any]] = json.loads(text)
    return made


def seconds(kernel: str, work: Work, threads: int | None = None) -> float:
    """Return the time that a kernel takes for some work.

    Args:
        kernel: Its name.
        work: Amounts by kind.
        threads: Threads that share what can be shared; those of torch by default.

    Raises:
        KeyError: The file has no such kernel, or does not know a kind of its work.
    """
    own = table()[kernel]["seconds"]
    alone = shared = 0.0
    for kind, amount in work.items():
        if not amount:
            continue
        if is_serial(kind):
            alone += amount * own[kind]
        else:
            shared += amount * own[kind]
    return alone + shared / (threads or torch.get_num_threads())


@lru_cache(maxsize=256)
def is_serial(kind: str) -> bool:
    """Return whether threads do not share a kind of work."""
    return kind.rpartition(" ")[2] in SERIAL
