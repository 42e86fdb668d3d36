"""The plain window with a bias by distance, sinks or a cap, over the window alone."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.contenders import HEADS, SIDE, WINDOW, Contender, random_inputs
from benchmarks.core import over_window
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row

SOFTCAP = 50.0

Changes = dict[str, Any]


def alibi() -> Changes:
    """Without a gradient of its own."""
    return {"distance_bias": sp.alibi(HEADS, SIDE)}


def learned() -> Changes:
    """With the gradient of the table, in a training step."""
    return {"distance_bias": torch.zeros(HEADS, 2 * SIDE + 1, requires_grad=True)}


def sinks() -> Changes:
    """With their gradient, in a training step."""
    return {"sinks": torch.zeros(HEADS, requires_grad=True)}


def softcap() -> Changes:
    """As large as Gemma2's."""
    return {"softcap": SOFTCAP}


CHANGES: dict[str, tuple[str, Callable[[], Changes], Goal | None]] = {
    "alibi": ("ALiBi / none", alibi, Goal("<=", 1.25)),
    "bias": ("a learned bias / none", learned, None),
    "sinks": ("sinks / none", sinks, Goal("<=", 1.05)),
    "softcap": ("a cap / none", softcap, Goal("<=", 1.5)),
}


def changed(name: str, options: Options) -> Iterator[Row]:
    """Time with changed scores over the time of the plain window."""
    figure, make, goal = CHANGES[name]
    given = make()
    learnt = [x for x in given.values() if isinstance(x, Tensor) and x.requires_grad]

    def call(q: Tensor, k: Tensor, v: Tensor, *own: Tensor) -> Tensor:
        named = dict(zip(given, own, strict=True)) if own else given
        return sp.attention(q, k, v, WINDOW, kernel="tiles", **named)

    for length in options.lengths:
        contender = Contender(call, (*random_inputs(length), *learnt))
        yield from over_window(f"scores-{name}", figure, contender, length, 1.0, goal, options)


CASES = [
    Case(f"scores-{name}", f"{figure}, time", partial(changed, name))
    for name, (figure, _, _) in CHANGES.items()
]
