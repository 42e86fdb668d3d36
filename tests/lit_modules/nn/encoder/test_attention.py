"""`EncoderSelfAttention` as a `SparseSelfAttention`: names, segments, caches, wrong input."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.attention import EncoderSelfAttention
from lit_modules.nn.encoder.config import EncoderConfig

PARTS = ("weight", "bias")


def make(pattern: sp.Pattern, **fields) -> EncoderSelfAttention:
    torch.manual_seed(0)
    config = EncoderConfig(
        50, layers=1, heads=2, width=16, pattern=pattern, attention_dropout=0.0, **fields
    )
    return EncoderSelfAttention(config, 0).double()


@pytest.mark.parametrize("global_projections", [False, True])
def test_parameters_have_the_names_of_huggingface_checkpoints(global_projections):
    layer = make(sp.get("longformer", window=4), global_projections=global_projections)
    assert isinstance(layer, sp.SparseSelfAttention)
    names = ["query", "key", "value"]
    if global_projections:
        names += ["query_global", "key_global", "value_global"]
    assert list(layer.state_dict()) == [f"{name}.{part}" for name in names for part in PARTS]


@pytest.mark.parametrize("pattern", [sp.Full(), sp.Window(3, 3) & sp.SameDocument()])
def test_segments_separate_whatever_the_pattern_is(pattern):
    layer = make(pattern)
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    segments = torch.tensor([[0] * 20, [0] * 7 + [1] * 13])
    out = layer(x, segment_ids=segments)
    for row, start, stop in ((0, 0, 20), (1, 0, 7), (1, 7, 20)):
        part = slice(start, stop)
        alone = layer(x[row : row + 1, part], segment_ids=segments[row : row + 1, part])
        torch.testing.assert_close(alone[0], out[row, part], rtol=0, atol=1e-12)


def test_a_cache_gives_the_numbers_of_one_pass():
    layer = make(sp.Window.before(5)).eval()
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    cache = layer.make_cache()
    with torch.no_grad():
        steps = [layer(x[:, start : start + 4], cache=cache) for start in range(0, 20, 4)]
    torch.testing.assert_close(torch.cat(steps, 1), layer(x), rtol=0, atol=1e-12)


def test_wrong_input_is_refused():
    layer = make(sp.Full())
    with pytest.raises(ValueError, match=r"x must have shape \(batch, length, 16\), got \(2, 3\)"):
        layer(torch.zeros(2, 3, dtype=torch.float64))
