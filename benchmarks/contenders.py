"""An attention to be measured: a function, its inputs, and the two ways to run it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

import sparse_patterns as sp

DIRECTIONS = ("forward", "forward+backward")
BATCH, HEADS, HEAD_DIM = 1, 12, 64
SIDE = 256  # keys on each side of the query

WINDOW = sp.Window(SIDE, SIDE)


def useful_flop(length: int, direction: str) -> float:
    """Floating-point operations on visible pairs of the window, as if no query were near an edge.

    Two products of two operations each forward; the backward has five products, so 2.5 times that.
    """
    forward = 4 * BATCH * HEADS * length * (2 * SIDE + 1) * HEAD_DIM
    return forward * (1 if direction == "forward" else 3.5)


@dataclass(frozen=True)
class Contender:
    """A function of leaf tensors that returns one tensor."""

    call: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    @cached_property
    def training_inputs(self) -> tuple[Tensor, ...]:
        """The same values as leaves that gather gradients."""
        return tuple(tensor.detach().requires_grad_() for tensor in self.inputs)

    @cached_property
    def output_gradient(self) -> Tensor:
        """A gradient for the output, drawn once."""
        return torch.randn_like(self.forward())

    def forward(self) -> Tensor:
        """One pass that keeps nothing for a backward."""
        with torch.no_grad():
            return self.call(*self.inputs)

    def forward_backward(self) -> tuple[Tensor, ...]:
        """One pass and the gradients of all inputs."""
        out = self.call(*self.training_inputs)
        return torch.autograd.grad(out, self.training_inputs, self.output_gradient)

    def run(self, direction: str) -> Callable[[], object]:
        """The call to time for a direction."""
        if direction == "forward":
            return self.forward
        _ = self.output_gradient  # drawn now, so that it is not timed
        return self.forward_backward

    def on(self, inputs: tuple[Tensor, ...]) -> "Contender":
        """The same function on other inputs."""
        return replace(self, inputs=inputs)


def random_inputs(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """`q`, `k` and `v` of shape `(batch, heads, length, head_dim)`, the same at every call."""
    draw = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, BATCH, HEADS, length, HEAD_DIM, generator=draw)
    return q, k, v


def ours(pattern: sp.Pattern, length: int) -> Contender:
    """Our tiled kernel on a pattern."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sp.attention(q, k, v, pattern, kernel="tiles")

    return Contender(call, random_inputs(length))
