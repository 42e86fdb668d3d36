"""Rows of few global tokens equal those of projected keys and values, forward and backward."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.attention import EncoderSelfAttention, Masks
from lit_modules.nn.encoder.config import EncoderConfig
from lit_modules.nn.encoder.global_rows import find, without_rows

LENGTH = 40


def attention(pattern: sp.Pattern | None = None, dropout: float = 0.0) -> EncoderSelfAttention:
    config = EncoderConfig(
        50,
        layers=1,
        heads=2,
        width=16,
        pattern=sp.Window(3, 3) | sp.BatchGlobal() if pattern is None else pattern,
        global_projections=True,
        attention_dropout=dropout,
    )
    torch.manual_seed(0)
    made = EncoderSelfAttention(config, 0).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def masks_of(given: str) -> Masks:
    key_mask = torch.ones(3, LENGTH, dtype=torch.bool)
    key_mask[1, 30:] = False
    marks = torch.zeros_like(key_mask)
    marks[0, [0, 7, 39]] = True
    marks[1, [5, 35]] = True  # the second one is padding
    segments = torch.arange(LENGTH).expand(3, -1) // 15
    return Masks(
        key_mask if "padding" in given else None,
        marks if "marks" in given else None,
        segments if "segments" in given else None,
    )


GIVEN = ["", "marks", "marks padding", "marks segments", "marks padding segments", "padding"]


@pytest.mark.parametrize("given", GIVEN)
def test_both_ways_give_the_same(given, monkeypatch):
    layer, masks = attention(), masks_of(given)
    assert layer._columns == sp.Window(3, 3) | sp.BatchGlobal(rows=False)
    x = torch.randn(3, LENGTH, 16, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, LENGTH, 16, dtype=torch.float64)
    inputs = [x, *layer.parameters()]
    assert layer._few_rows(x, masks) is not None
    short = layer(x, masks)
    short_grads = torch.autograd.grad((short * upstream).sum(), inputs)
    monkeypatch.setattr(layer, "_columns", None)
    assert layer._few_rows(x, masks) is None
    long = layer(x, masks)
    long_grads = torch.autograd.grad((long * upstream).sum(), inputs)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-12)
    for mine, other in zip(short_grads, long_grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


def test_without_marks_every_parameter_has_a_gradient_of_zero():
    layer = attention()
    layer(torch.randn(3, LENGTH, 16, dtype=torch.float64), masks_of("padding")).sum().backward()
    for name in ("query_global", "key_global", "value_global"):
        for parameter in layer.get_submodule(name).parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()


def test_a_mark_on_padding_is_no_global_token():
    masks = masks_of("marks padding")
    rows = find(masks.global_mask, masks.key_mask, torch.zeros(3, LENGTH, 16))
    assert rows.index.tolist() == [[0, 7, 39], [5, 0, 0], [0, 0, 0]]
    assert rows.real.tolist() == [[True] * 3, [True, False, False], [False] * 3]


def test_an_example_of_padding_alone_has_finite_gradients():
    layer = attention()
    key_mask = torch.ones(2, LENGTH, dtype=torch.bool)
    key_mask[1] = False
    marks = torch.zeros_like(key_mask)
    marks[:, 0] = True
    x = torch.randn(2, LENGTH, 16, dtype=torch.float64, requires_grad=True)
    out = layer(x, Masks(key_mask, marks))
    assert not out[1].any()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [x, *layer.parameters()])


def test_many_rows_are_projected():
    layer = attention()
    marks = torch.zeros(1, LENGTH, dtype=torch.bool)
    marks[0, : layer.head_dim // 2 + 1] = True
    x = torch.zeros(1, LENGTH, 16, dtype=torch.float64)
    assert layer._few_rows(x, Masks(None, marks)) is None
    marks[0, 0] = False
    assert layer._few_rows(x, Masks(None, marks)) is not None


def test_dropout_takes_its_share():
    layer = attention(dropout=0.5).train()
    marks = torch.zeros(1, LENGTH, dtype=torch.bool)
    marks[0, 0] = True
    x = torch.randn(1, LENGTH, 16, dtype=torch.float64)
    with torch.no_grad():
        rows = torch.stack([layer(x, Masks(None, marks))[0, 0] for _ in range(400)])
        expected = layer.eval()(x, Masks(None, marks))[0, 0]
    spread = rows.std(0) / len(rows) ** 0.5
    assert rows.std(0).min() > 0.01
    assert ((rows.mean(0) - expected).abs() < 5 * spread).all()


@pytest.mark.parametrize(
    "pattern",
    [
        sp.BatchGlobal(),
        sp.Window(3, 3) | sp.BatchGlobal() | sp.Global((0,)),
        (sp.Window(3, 3) | sp.BatchGlobal()) & sp.SameDocument(),
        sp.Window(3, 3) | (sp.BatchGlobal() & sp.Causal()),
        sp.PerHead(sp.Window(3, 3) | sp.BatchGlobal(), sp.BatchGlobal()),
        sp.Window(3, 3) | sp.BatchGlobal(rows=False),
        sp.BatchGlobal() | sp.Rule(lambda q, k, head: q == k, name="self"),
    ],
)
def test_other_patterns_are_left_to_the_kernels(pattern):
    assert without_rows(pattern) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_precision(dtype):
    layer, masks = attention(), masks_of("marks padding")
    x = torch.randn(3, LENGTH, 16, dtype=torch.float64)
    expected = layer(x, masks)
    got = layer.to(dtype)(x.to(dtype), masks)
    assert got.dtype == dtype
    error = (got.double() - expected).abs().max()
    assert error < (0.3 if dtype == torch.bfloat16 else 1e-4)
