"""Checks at the door: one clear error naming the argument, the value seen and what is allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.algebra import uses
from sparse_patterns.patterns import BatchGlobal, Pattern, SameDocument

INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_pattern(pattern: object) -> Pattern:
    """Return the pattern, or refuse what is none.

    Raises:
        TypeError: Not a pattern; a name is pointed to the registry.
    """
    if isinstance(pattern, Pattern):
        return pattern
    hint = f"; write sp.get({pattern!r})" if isinstance(pattern, str) else ""
    raise TypeError(f"pattern must be a Pattern, got {pattern!r}{hint}")


def check_lengths(q_len: int, kv_len: int | None, q_offset: int | None) -> tuple[int, int, int]:
    """Fill in the defaults of lengths and offset: `kv_len = q_len`, `q_offset = kv_len - q_len`.

    Raises:
        ValueError: A length is negative.
    """
    kv_len = q_len if kv_len is None else kv_len
    for name, value in (("q_len", q_len), ("kv_len", kv_len)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    return q_len, kv_len, kv_len - q_len if q_offset is None else q_offset


def check_example_tensor(name: str, tensor: object, pattern: Pattern, kv_len: int) -> None:
    """Refuse a `key_mask`, `global_mask` or `segment_ids` of another type or shape, or not used.

    Raises:
        TypeError: Not a tensor, not bool (masks) or not integers (segment ids).
        ValueError: Not `(batch, kv_len)`, or the pattern has no part that reads it.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    readers = {"global_mask": BatchGlobal, "segment_ids": SameDocument}
    if name in readers and not uses(pattern, readers[name]):
        raise ValueError(
            f"{name} was given, but the pattern has no {readers[name].__name__}() to read it: "
            f"{pattern!r}"
        )
    if name == "segment_ids":
        if tensor.dtype not in INTEGER_TYPES:
            raise TypeError(f"segment_ids must be integers, got {tensor.dtype}")
    elif tensor.dtype != torch.bool:
        raise TypeError(f"{name} must be bool (True = yes), got {tensor.dtype}")
    if tensor.ndim != 2 or tensor.shape[1] != kv_len:
        raise ValueError(
            f"{name} must have shape (batch, kv_len) = (batch, {kv_len}), got {tuple(tensor.shape)}"
        )
