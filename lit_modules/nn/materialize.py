"""Weights without memory (on the meta device) given memory and fresh values, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

__all__ = ["allocate", "is_meta", "reset"]


def is_meta(module: nn.Module, recurse: bool = True) -> bool:
    """Return whether a module has a parameter or buffer without memory."""
    tensors = chain(module.parameters(recurse), module.buffers(recurse))
    return any(tensor.is_meta for tensor in tensors)


def allocate(modules: Iterable[nn.Module], device: torch.device) -> set[nn.Module]:
    """Give memory to what has none; other tensors stay as they are.

    Args:
        modules: Looked at without their children.
        device: Where the memory is.

    Returns:
        The modules that have tensors with new memory, whose values are arbitrary.
    """

    def real(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor

    found = [module for module in modules if is_meta(module, recurse=False)]
    for module in found:
        module._apply(real, recurse=False)
    return set(found)


def reset(modules: Iterable[nn.Module]) -> None:
    """Draw fresh values by the `reset_parameters` of each module, as its constructor does.

    Raises:
        TypeError: A module with parameters of its own has no such method.
    """
    for module in modules:
        method = getattr(module, "reset_parameters", None)
        if method is None:
            raise TypeError(
                f"{type(module).__name__} was made on the meta device and has no "
                "reset_parameters(), which draws its first weights: add the method, or make the "
                "model on a real device"
            )
        method()
