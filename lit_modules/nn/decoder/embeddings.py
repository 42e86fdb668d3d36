"""Positions: rotary (relative, the default) or learned (absolute)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LearnedPositions", "Rotary", "rotary_tables", "rotate"]

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each `(length, head_dim / 2)`."""


def rotary_tables(
    positions: Tensor, head_dim: int, dtype: torch.dtype, base: float = 1e4
) -> Rotary:
    """Return the rotation of each position (Su et al. 2021, section 3.2.2).

    Angles are computed in float64 where the device has it: in float32 the fastest pair is wrong by
    a hundredth of a rotation beyond a million tokens. No table is stored, so the length is not
    limited and a cast of the model changes nothing.

    Args:
        positions: int64 `(length,)`, in tokens.
        head_dim: Size of a head; must be even.
        dtype: Type of the model; the tables are float32, or float64 for a float64 model.
        base: Ratio of the longest to the shortest wavelength.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=exact) / head_dim
    angles = positions.to(exact)[:, None] * base**-exponents
    table = torch.float64 if dtype == torch.float64 else torch.float32
    return angles.cos().to(table), angles.sin().to(table)


def rotate(x: Tensor, tables: Rotary) -> Tensor:
    """Rotate each pair of features by the angle of its position.

    Args:
        x: `(batch, heads, length, head_dim)`; features `i` and `i + head_dim / 2` are a pair.
        tables: From `rotary_tables`, for the same length.
    """
    cos, sin = tables
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


class LearnedPositions(nn.Module):
    """A trained vector for each absolute position.

    Args:
        max_length: Tokens of the longest sequence.
        width: Features of a token.
    """

    def __init__(self, max_length: int, width: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(torch.empty(max_length, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small vectors."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, start: int, length: int) -> Tensor:
        """Return the vectors of `length` positions from `start` on, `(length, width)`.

        Raises:
            ValueError: The sequence is longer than the table.
        """
        if start + length > self.max_length:
            raise ValueError(
                f"sequence of {start + length} tokens is longer than the {self.max_length} learned "
                "positions; raise max_length or use positions='rotary'"
            )
        return self.weight[start : start + length]
