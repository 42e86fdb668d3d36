"""The matrix of all pairs is taken where it costs less, and gives what the features give."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder
from lit_modules.nn.decoder.pairs import attend_pairs, shown_pairs
from lit_modules.nn.decoder.relative import Relative, waves


def heads(length: int, total: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 2, length, size), torch.randn(1, 2, total, size)


@pytest.mark.parametrize(
    ("pattern", "length", "total", "features", "taken"),
    [
        (sp.Causal(), 64, 128, 64, True),
        (sp.Window.before(3), 64, 128, 4, False),  # few of the pairs are seen
        (sp.Causal(), 512, 1024, 64, False),  # more memory than the features
        (sp.Causal() & sp.SameDocument(), 64, 128, 64, False),
        (sp.PerHead(sp.Causal(), sp.Window.before(100)), 64, 128, 64, True),
    ],
)
def test_it_is_taken_where_it_costs_less(pattern, length, total, features, taken):
    shown = shown_pairs(pattern, *heads(length, total), features, layer=0, layers=1)
    assert (shown is not None) == taken
    if shown is not None:
        expected = sp.dense_mask(pattern, length, total, heads=2)
        assert torch.equal(shown.expand(2, -1, -1), expected)


@pytest.mark.parametrize("length", [1, 5, 9])
def test_it_equals_the_features_and_their_gradients(length):
    torch.manual_seed(0)
    total, width, size = 9, 8, 4
    shapes = [(2, 2, length, size), *[(2, 2, total, size)] * 2, (2, size), (2, size), (8, width)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    q, k, v, u, bias, weight = given
    relative = Relative(waves(torch.arange(total), width, total, q.dtype), u, bias)
    shown = sp.dense_mask(sp.Causal(), length, total, heads=1)
    one = attend_pairs(q, k, v, relative, weight, shown)
    longer = relative.extend(q, k, v, weight)
    two = sp.attention(*longer, sp.Causal(), scale=size**-0.5)[..., :size]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    grad = torch.randn_like(one)
    for a, b in zip(
        torch.autograd.grad(one, given, grad), torch.autograd.grad(two, given, grad), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_row_without_keys_is_zeros():
    q, k = heads(2, 2)
    relative = Relative(waves(torch.arange(2), 32, 2, q.dtype), *torch.zeros(2, 2, 16))
    shown = torch.tensor([[[False, False], [True, True]]])
    out = attend_pairs(q, k, k, relative, torch.randn(32, 32), shown)
    assert not out[:, :, 0].any()
    assert out.isfinite().all()


def test_a_kernel_that_is_named_is_not_replaced(monkeypatch):
    import lit_modules.nn.decoder.attention as module

    made = []
    monkeypatch.setattr(module, "attend_pairs", lambda *given: made.append(1) or given[0])
    for kernel, expected in (("auto", [1]), ("tiles", [])):
        made.clear()
        net = Decoder(
            *(7,),
            **dict(layers=1, heads=4, width=64, pattern="full", kernel=kernel),
            positions="transformer-xl",
        )
        net(torch.zeros(1, 64, dtype=torch.long))
        assert made == expected
