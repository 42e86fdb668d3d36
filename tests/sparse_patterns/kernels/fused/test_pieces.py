"""Many packed sequences go backward some at a time, with the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.fused import pieces
from sparse_patterns.kernels.fused.operator import Shape
from sparse_patterns.lowering.fused.bands import Band
from tests.contracts.kernels.cases import HARD, make_case
from tests.contracts.kernels.emulated.fused import EmulatedFused, TorchOperator
from tests.contracts.kernels.holding import hold


class Counting(TorchOperator):
    """The emulated operator, which counts the sequences of each backward pass."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def backward(self, *given: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lengths = given[6].lengths
        self.sequences.append(0 if lengths is None else len(lengths[0]))
        return super().backward(*given)


def test_pieces_give_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Counting()
    monkeypatch.setitem(KERNELS, "xformers_fused", EmulatedFused(operator))
    ids = torch.arange(60).div(7, rounding_mode="floor").expand(2, 60)
    case = make_case(sp.Window(3, 2) & sp.SameDocument(), 60, segment_ids=ids)
    hold("xformers_fused", case, torch.float64)
    whole = max(operator.sequences)
    assert whole > 4
    monkeypatch.setattr(pieces, "MOST", 2 * pieces.ROWS * 4 * 16)
    operator.sequences.clear()
    hold("xformers_fused", case, torch.float64)
    assert max(operator.sequences) == 2
    assert len(operator.sequences) == -(-whole // 2)
    hold("xformers_fused", HARD["padding marked global"], torch.float64)


def test_few_or_long_sequences_stay_together() -> None:
    operator = Counting()
    shape = Shape(Band(2, 2), ((3, 5), (4, 4)))
    x = torch.randn(1, 8, 2, 8)
    lse = torch.zeros(1, 2, 8)
    pieces.backward(operator, x, x, lse, x, x, x, shape, 0.3)
    pieces.backward(operator, x, x, lse, x, x, x, Shape(Band(2, 2)), 0.3)
    assert operator.sequences == [2, 0]
    # What a piece takes is far below what 32 bits count.
    assert 2 * pieces.MOST < 1 << 31
