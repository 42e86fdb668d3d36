"""What kinds of arguments do not take: values of another type, and of a right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import sparse_patterns as sp

HUGE = 1 << 70
X = torch.zeros(1, 2, 6, 4)
MASK = torch.ones(1, 6, dtype=torch.bool)
CAUSAL = sp.Window(2, 0)
BATCH = sp.BatchGlobal() | sp.SameDocument()
NESTED = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged)
SPARSE = torch.zeros(2, 3).to_sparse()
OTHER = (object(), b"1", {1: 2}, 1j)


@dataclass(frozen=True)
class Wrong:
    """What an argument does not take: values of another type, and of a right one."""

    types: tuple[Any, ...] = ()
    values: tuple[Any, ...] = ()

    def but(self, *allowed: Any) -> Wrong:
        """Return the same without values that an argument does take."""

        def left(given: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(x for x in given if not any(x is one for one in allowed))

        return Wrong(left(self.types), left(self.values))

    def also(self, *values: Any) -> Wrong:
        """Return the same with further wrong values."""
        return Wrong(self.types, self.values + values)


def integers(minimum: int | None = None) -> Wrong:
    """Return what no integer of at least `minimum` is."""
    values = (HUGE, -HUGE) if minimum is None else (HUGE, minimum - 1)
    return Wrong(("0", None, 1.0, 1.5, True, [1], (1,), torch.tensor(1), *OTHER), values)


NUMBER = integers(0).but()
NUMBER = Wrong(
    ("0", None, 1.5, True, torch.tensor(1), [1.5], (True,), ["1"], *OTHER), NUMBER.values
)
FLAG = Wrong((0, 1, "yes", None, torch.tensor(True), np.True_, *OTHER))
REAL = Wrong(("x", None, True, [1.0], *OTHER), (float("nan"), float("inf"), -float("inf")))
PROBABILITY = REAL.also(-0.1, 1.1)
PATTERN = Wrong(("causal", None, 3, True, sp.Window, X, [CAUSAL], *OTHER))
NAME = Wrong((None, 3, True, ["mistral"], *OTHER[:1]))
FLOATS = Wrong(
    (
        None,
        [0.0],
        3,
        True,
        "x",
        np.zeros((1, 2, 6, 4)),
        X.long(),
        X.bool(),
        X.cfloat(),
        NESTED,
        SPARSE,
    ),
    (X[0], X[..., None]),
)
MASKS = Wrong(
    (True, [[True] * 6], "x", np.ones((1, 6), bool), MASK.float(), MASK.long(), NESTED, SPARSE)
)
MASKS = MASKS.also(MASK[0], MASK[:, :5], MASK[None])
SEGMENTS = Wrong(
    (True, [[0] * 6], MASK, MASK.float(), NESTED, SPARSE), (MASK[0].long(), MASK[:, :5].long())
)
SCALE = REAL.but(None)
SCALE = Wrong(
    (*SCALE.types, torch.tensor(1), torch.tensor(True), torch.tensor(1j)),
    (*SCALE.values, torch.ones(2), torch.tensor(float("nan")), torch.tensor(float("inf"))),
)
KERNEL = NAME.also("nope", "")
DEVICE = Wrong((3, True, [1], *OTHER), ("nope", ""))
DTYPE = Wrong(("float32", 3, True, float), (torch.int64, torch.bool, torch.complex64))
CONFIG = Wrong(
    (None, 3, True, [1], {"window": 3}), ("nope", {"nope": 1}, {}, {"window": {"left": -1}})
)
