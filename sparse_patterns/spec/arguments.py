"""Checks of single arguments, shared by every public function.

Each returns the argument, or raises one error with its name, the value seen and what is allowed:
TypeError for a wrong type, ValueError for a wrong value. True and False are no numbers. Whole
numbers inside of a pattern are checked by `sparse_patterns.spec.fields`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.spec.fields import LARGEST, integer, shown


def whole(name: str, value: Any, minimum: int = -LARGEST, maximum: int = LARGEST) -> int:
    """Return an int within bounds; the symbolic sizes of `torch.export` pass as they are.

    Raises:
        TypeError: Not an integer.
        ValueError: Below `minimum` or above `maximum`.
    """
    if type(value) is not int and isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    return integer(name, value, minimum, maximum)


def real(name: str, value: Any) -> float:
    """Return a finite float.

    Raises:
        TypeError: Not a number.
        ValueError: NaN or infinite.
    """
    if type(value) is float or type(value) is int:
        plain = float(value)
    elif isinstance(value, bool) or not isinstance(value, numbers.Real | torch.SymFloat):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    else:
        plain = float(value)
    if not math.isfinite(plain):
        raise ValueError(f"{name} must be finite, got {plain}")
    return plain


def probability(name: str, value: Any, below_one: bool = False) -> float:
    """Return a float from 0 to 1.

    Args:
        name: What it is, for the error message.
        value: The number.
        below_one: Whether 1 is refused.

    Raises:
        TypeError: Not a number.
        ValueError: Outside of the bounds, or NaN.
    """
    if type(value) is not float:
        value = real(name, value)
    if below_one and not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in 0..1, got {value}")
    return float(value)


def text(name: str, value: Any) -> str:
    """Return a string.

    Raises:
        TypeError: Anything else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}")
    return value


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return one of several names.

    Raises:
        TypeError: Not a string.
        ValueError: Another name.
    """
    names = tuple(allowed)
    if text(name, value) not in names:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")
    return value


def data_type(name: str, value: Any) -> torch.dtype:
    """Return a floating-point `torch.dtype`.

    Raises:
        TypeError: Not a dtype.
        ValueError: A dtype of integers, booleans or complex numbers.
    """
    if not isinstance(value, torch.dtype):
        raise TypeError(f"{name} must be a torch.dtype, got {shown(value)}")
    if not value.is_floating_point:
        raise ValueError(f"{name} must be floating point, got {value}")
    return value


def device(name: str, value: Any) -> torch.device:
    """Return a `torch.device`, made of a string where one is given.

    Raises:
        TypeError: Neither a device nor a string.
        ValueError: A string that names no kind of device.
    """
    if isinstance(value, torch.device):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a torch.device or a string, got {shown(value)}")
    try:
        return torch.device(value)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must name a device, such as 'cpu' or 'cuda:0', got {value!r}"
        ) from (error)


def tensor(name: str, value: Any) -> Tensor:
    """Return a tensor of the usual kind: dense, and one array instead of many nested ones.

    Raises:
        TypeError: Not a tensor, or a nested, sparse or quantized one.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__} {shown(value)}")
    if value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, got a nested one; pad it to one length and give the "
            "padding as key_mask"
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    if value.is_quantized:
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    return value


def floating(name: str, value: Any) -> Tensor:
    """Return a dense tensor of floating-point numbers.

    Raises:
        TypeError: Anything else.
    """
    if not tensor(name, value).dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    return value
