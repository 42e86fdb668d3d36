"""Compiling a network in place, so that the names of its parameters stay."""

from __future__ import annotations

from torch import nn

__all__ = ["compile_once"]


def compile_once(net: nn.Module) -> None:
    """Compile a network with torch.compile, unless it is compiled already."""
    if net._compiled_call_impl is None:
        net.compile()
