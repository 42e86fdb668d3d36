"""Features of positions: their products are the term of the distances, with as few as are exact."""

import math

import pytest
import torch

from lit_modules.nn.decoder.relative import Relative, RelativeBiases, sinusoids, waves


def test_sinusoids_follow_their_formula():
    found = sinusoids(torch.tensor([0, 7]), 4)
    slow = 7 * 1e4**-0.5
    expected = [[0, 0, 1, 1], [math.sin(7), math.sin(slow), math.cos(7), math.cos(slow)]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def terms(reach: int, start: int = 0, length: int = 20, width: int = 16) -> tuple:
    """The second term by features, and written out, each `(length, length)`."""
    torch.manual_seed(0)
    q, weight = torch.randn(1, 1, length, 3).double(), torch.randn(3, width).double()
    zero = torch.zeros(1, 3, dtype=torch.float64)
    places = torch.arange(start, start + length)
    relative = Relative(waves(places, width, reach, torch.float64), zero, zero)
    longer, keys, values = relative.extend(q, torch.zeros_like(q), torch.ones_like(q), weight)
    assert longer.shape == keys.shape == values.shape
    assert not values[..., 3:].any()
    distances = places[:, None] - places
    expected = (q[0, 0] @ weight)[:, None] * sinusoids(distances, width)
    return (longer @ keys.transpose(-1, -2))[0, 0], expected.sum(-1), distances


@pytest.mark.parametrize("reach", [0, 1, 2, 7, 8, 14, 15, 16, 10**6])
@pytest.mark.parametrize("start", [0, 10**7])
def test_all_distances_that_are_seen_are_exact(reach, start):
    found, expected, distances = terms(reach, start)
    seen = (distances >= 0) & (distances <= reach)
    # A float64 of ten million radians is exact to a billionth.
    torch.testing.assert_close(
        found[seen], expected[seen], rtol=0, atol=1e-11 if not start else 1e-7
    )


def test_features_are_as_few_as_the_distances():
    counts = [waves(torch.arange(4), 16, reach, torch.float32).features for reach in range(20)]
    assert counts[:15] == list(range(1, 16))
    assert set(counts[15:]) == {16}


def test_tables_are_float32_whatever_half_type_the_model_has():
    for dtype, table in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        found = waves(torch.arange(4), 16, 3, dtype)
        assert {found.cos.dtype, found.sin.dtype, found.basis.dtype} == {table}


def test_biases_are_drawn_anew():
    biases = RelativeBiases(2, 3)
    before = biases.u.clone()
    biases.reset_parameters()
    assert biases.u.shape == biases.v.shape == (2, 3)
    assert not torch.equal(biases.u, before)
