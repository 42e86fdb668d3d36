"""What an operator of attention is given, and how torch is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ForwardRef, NamedTuple

from torch import Tensor


class Given(NamedTuple):
    """What the operators are given: the tensors of a call, then the numbers and names."""

    q: Tensor
    k: Tensor
    v: Tensor
    global_q: Tensor | None
    global_k: Tensor | None
    global_v: Tensor | None
    sinks: Tensor | None
    distance_bias: Tensor | None
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None
    seed: Tensor | None
    pattern: str
    layer: int
    layers: int
    q_offset: int
    scale: float
    dropout_p: float
    kernel: str
    needs_grad: bool
    softcap: float | None
    bias_grad: bool


_LEARNED = Given._fields.index("distance_bias") + 1

_SCHEMA_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "str": "str",
    "int": "SymInt",
    "float": "float",
    "float | None": "float?",
    "bool": "bool",
}


def schema_of(given: type[Any]) -> str:
    """Return the arguments of an operator, written as torch does, from those of a named tuple."""
    kinds = {
        name: kind.__forward_arg__ if isinstance(kind, ForwardRef) else str(kind)
        for name, kind in given.__annotations__.items()
    }
    return ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in kinds.items())


def count_tensors(given: type[Any]) -> int:
    """Return how many of the arguments of an operator are tensors; they come first."""
    return sum("Tensor" in str(kind) for kind in given.__annotations__.values())


def differentiable(tensors: Sequence[Tensor | None], bias_grad: bool) -> list[int]:
    """Return which arguments have gradients: of inputs, sinks and bias, those that are given."""
    given = [n for n, x in enumerate(tensors[:_LEARNED]) if x is not None]
    return given if bias_grad else [n for n in given if n != _LEARNED - 1]
