"""Tables of distances by formula, and the checks of what changes scores."""

import pytest
import torch

import sparse_patterns as sp


def test_alibi_has_the_slopes_of_the_paper() -> None:
    table = sp.alibi(8, 3)
    assert table.shape == (8, 7)
    assert table[0].tolist() == [-1.5, -1.0, -0.5, 0.0, -0.5, -1.0, -1.5]
    assert table[7, 0] == -3 / 256
    # Between powers of two: those of 8, then every other one of 16.
    slopes = -sp.alibi(12, 1)[:, 0]
    assert torch.equal(slopes[:8], -sp.alibi(8, 1)[:, 0])
    assert torch.equal(slopes[8:], -sp.alibi(16, 1)[:8:2, 0])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_table_of_t5_is_that_of_its_models(bidirectional: bool) -> None:
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    weight = torch.randn(32, 5, requires_grad=True)
    relative = torch.arange(-300, 301)
    bucket = attention._relative_position_bucket(relative, bidirectional, 32, 128)
    table = sp.t5_bias(weight, 300, bidirectional)
    assert torch.equal(table, weight[bucket].T)
    (grad,) = torch.autograd.grad(table.sum(), weight)
    assert torch.equal(grad[:, 0], torch.bincount(bucket, minlength=32).float())


WRONG = {
    "a cap of 0": ({"softcap": 0}, "softcap must be > 0, got 0.0"),
    "a cap in words": ({"softcap": "30"}, "softcap must be a number, got '30'"),
    "too many sinks": ({"sinks": torch.zeros(3)}, r"\(heads,\) = \(2,\), got \(3,\)"),
    "whole sinks": ({"sinks": torch.zeros(2).long()}, "sinks must be floating point"),
    "an even table": ({"distance_bias": torch.zeros(2, 4)}, r"an odd number\), got \(2, 4\)"),
    "a table for all": ({"distance_bias": torch.zeros(1, 3)}, r"got \(1, 3\)"),
    "no tensor": ({"distance_bias": 3}, "distance_bias must be a tensor, got int 3"),
    "another device": ({"sinks": torch.zeros(2, device="meta")}, "sinks must be on cpu like q"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    given, why = WRONG[name]
    x = torch.randn(1, 2, 5, 4)
    with pytest.raises((TypeError, ValueError), match=why):
        sp.attention(x, x, x, sp.Window(1, 1), **given)


def test_wrong_numbers_of_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must be >= 1, got 0"):
        sp.alibi(0, 4)
    with pytest.raises(ValueError, match=r"\(buckets, heads\), got \(4,\)"):
        sp.t5_bias(torch.zeros(4), 4, True)
    with pytest.raises(ValueError, match="at least 4 buckets, got 2"):
        sp.t5_bias(torch.zeros(2, 3), 4, True)
