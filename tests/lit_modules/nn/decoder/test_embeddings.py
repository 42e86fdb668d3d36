"""Positions: rotation is relative, exact far out, and independent of the type of the model."""

import math

import pytest
import torch

from lit_modules.nn.decoder.embeddings import LearnedPositions, rotary_tables, rotate


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def score(i: int, j: int) -> torch.Tensor:
        at_i = rotary_tables(torch.tensor([i]), 16, torch.float64)
        at_j = rotary_tables(torch.tensor([j]), 16, torch.float64)
        return (rotate(q, at_i) * rotate(k, at_j)).sum()

    torch.testing.assert_close(score(5, 2), score(1005, 1002), rtol=0, atol=1e-11)
    assert abs(float(score(5, 2) - score(5, 3))) > 1e-3


def test_rotation_follows_its_formula():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    turned = rotate(x, rotary_tables(torch.tensor([3]), 4, torch.float32))[0, 0, 0]
    fast, slow = 3.0, 3.0 * 1e4**-0.5
    expected = [
        1 * math.cos(fast) - 3 * math.sin(fast),
        2 * math.cos(slow) - 4 * math.sin(slow),
        3 * math.cos(fast) + 1 * math.sin(fast),
        4 * math.cos(slow) + 2 * math.sin(slow),
    ]
    torch.testing.assert_close(turned, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tables_are_float32_whatever_the_model_is(dtype):
    cos, sin = rotary_tables(torch.arange(5), 8, dtype)
    assert cos.dtype == sin.dtype == torch.float32
    assert rotate(torch.ones(1, 1, 5, 8, dtype=dtype), (cos, sin)).dtype == dtype


def test_far_positions_are_as_exact_as_near_ones():
    far = 16_777_217  # The first integer that float32 does not have.
    cos, _ = rotary_tables(torch.tensor([far]), 2, torch.float32)
    assert abs(float(cos) - math.cos(far)) < 1e-6


def test_learned_positions_start_where_the_text_goes_on():
    positions = LearnedPositions(10, 4)
    torch.testing.assert_close(positions(3, 2), positions.weight[3:5], rtol=0, atol=0)


def test_sequence_beyond_the_learned_positions_is_refused():
    with pytest.raises(ValueError, match=r"sequence of 11 tokens is longer than the 10 learned"):
        LearnedPositions(10, 4)(8, 3)
