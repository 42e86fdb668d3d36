"""Checks at the door: one clear error naming the argument, the value seen and what is allowed."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from sparse_patterns.spec import arguments
from sparse_patterns.spec.algebra import has_global_rows
from sparse_patterns.spec.arguments import probability, whole
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.binding import check_layer
from sparse_patterns.spec.fields import LARGEST, integer, shown

INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_pattern(pattern: object) -> Pattern:
    """Return the pattern, or refuse what is none.

    Raises:
        TypeError: Not a pattern; a name is pointed to the registry.
    """
    if isinstance(pattern, Pattern):
        return pattern
    hint = f"; write sp.get({pattern!r})" if isinstance(pattern, str) else ""
    raise TypeError(f"pattern must be a Pattern, got {shown(pattern)}{hint}")


def check_lengths(q_len: int, kv_len: int | None, q_offset: int | None) -> tuple[int, int, int]:
    """Fill in the defaults of lengths and offset: `kv_len = q_len`, `q_offset = kv_len - q_len`.

    Raises:
        TypeError: One of them is no int.
        ValueError: A length is negative, or a number is above 2**31 - 1.
    """
    q_len = integer("q_len", q_len, 0, LARGEST)
    kv_len = q_len if kv_len is None else integer("kv_len", kv_len, 0, LARGEST)
    if q_offset is None:
        return q_len, kv_len, kv_len - q_len
    return q_len, kv_len, integer("q_offset", q_offset, -LARGEST, LARGEST)


def check_example_tensor(name: str, tensor: object, pattern: Pattern, kv_len: int) -> None:
    """Refuse a `key_mask`, `global_mask` or `segment_ids` of another type or shape, or not used.

    Raises:
        TypeError: Not a tensor, not bool (masks) or not integers (segment ids).
        ValueError: Not `(batch, kv_len)`, or the pattern has no part that reads it.
    """
    tensor = check_example_type(name, tensor)
    readers = {"global_mask": BatchGlobal, "segment_ids": SameDocument}
    if name in readers and not uses(pattern, readers[name]):
        raise ValueError(
            f"{name} was given, but the pattern has no {readers[name].__name__}() to read it: "
            f"{pattern!r}"
        )
    if tensor.ndim != 2 or tensor.shape[1] != kv_len:
        raise ValueError(
            f"{name} must have shape (batch, kv_len) = (batch, {kv_len}), got {tuple(tensor.shape)}"
        )


def check_example_type(name: str, tensor: object) -> Tensor:
    """Return a `key_mask`, `global_mask` or `segment_ids`, or refuse one of another type.

    Raises:
        TypeError: Not a tensor, not bool (masks) or not integers (segment ids).
    """
    tensor = arguments.tensor(name, tensor)
    if name == "segment_ids":
        if tensor.dtype not in INTEGER_TYPES:
            raise TypeError(f"segment_ids must be integers, got {tensor.dtype}")
    elif tensor.dtype != torch.bool:
        raise TypeError(f"{name} must be bool (True = yes), got {tensor.dtype}")
    return tensor


def check_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: object,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None,
    segment_ids: Tensor | None,
    dropout_p: float,
    layer: int,
    layers: int,
    q_offset: int | None,
) -> None:
    """Refuse a call of `attention` that does not fit together.

    Raises:
        TypeError: A tensor, a type or the pattern is not what is asked for.
        ValueError: A shape, a device or a number is not allowed.
    """
    checked = check_pattern(pattern)
    check_layer(layer, layers)
    probability("dropout_p", dropout_p)
    if q_offset is not None:
        whole("q_offset", q_offset)
    _check_qkv("", q, k, v)
    if global_qkv is not None:
        if not isinstance(global_qkv, tuple | list) or len(global_qkv) != 3:
            raise TypeError(f"global_qkv must be a tuple (q, k, v), got {_kinds(global_qkv)}")
        if not has_global_rows(checked):
            raise ValueError(
                "global_qkv was given, but the pattern has no Global() or BatchGlobal() with rows "
                f"that would use it: {checked!r}"
            )
        _check_qkv("global_qkv ", *global_qkv)
        for name, own, other in zip("qkv", global_qkv, (q, k, v), strict=True):
            if own.shape != other.shape or own.dtype != other.dtype or own.device != other.device:
                raise ValueError(
                    f"global_qkv {name} must be like {name}: {_describe(other)}, "
                    f"got {_describe(own)}"
                )
    given = {"key_mask": key_mask, "global_mask": global_mask, "segment_ids": segment_ids}
    for name, tensor in given.items():
        if tensor is None:
            continue
        check_example_tensor(name, tensor, checked, k.shape[2])
        if tensor.shape[0] != q.shape[0]:
            raise ValueError(
                f"{name} must have shape (batch, kv_len) = ({q.shape[0]}, {k.shape[2]}), "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.device != q.device:
            raise ValueError(f"{name} must be on {q.device} like q, got {tensor.device}")
    if segment_ids is None and uses(checked, SameDocument):
        raise ValueError("segment_ids must be given to a pattern with SameDocument(), got None")


def _check_qkv(prefix: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        arguments.floating(f"{prefix}{name}", tensor)
        if tensor.ndim != 4:
            raise ValueError(
                f"{prefix}{name} must have shape (batch, heads, length, head_dim), "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.dtype != q.dtype:
            raise ValueError(f"{prefix}{name} must be {q.dtype} like q, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{prefix}{name} must be on {q.device} like q, got {tensor.device}")
    if k.shape != v.shape:
        raise ValueError(
            f"{prefix}v must have the shape of k {tuple(k.shape)}, got {tuple(v.shape)}"
        )
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(
            f"{prefix}k must have batch {q.shape[0]} and head_dim {q.shape[3]} like q, "
            f"got {tuple(k.shape)}"
        )
    if k.shape[1] < 1 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{prefix}k must have a number of heads that divides those of q ({q.shape[1]}), "
            f"got {k.shape[1]}"
        )


def is_three_tensors(value: object) -> TypeGuard[tuple[Tensor, Tensor, Tensor]]:
    """Return whether a value is a tuple or list of three tensors."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 3
        and all(isinstance(item, Tensor) for item in value)
    )


def _kinds(value: object) -> str:
    """Return what was given in place of three tensors."""
    if isinstance(value, tuple | list):
        return f"{len(value)} values ({', '.join(type(item).__name__ for item in value)})"
    return f"{type(value).__name__} {shown(value)}"


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
