"""Rows of few global tokens equal those of projected keys and values, forward and backward."""

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.attention import EncoderSelfAttention, Masks
from lit_modules.nn.encoder.config import EncoderConfig
from lit_modules.nn.encoder.global_rows import find, global_rows, without_rows

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


def projected(layer: EncoderSelfAttention, segments: bool = False) -> sp.SparseSelfAttention:
    """The same attention by the module that projects every key and value for global rows."""
    pattern = layer.pattern & sp.SameDocument() if segments else layer.pattern
    made = sp.SparseSelfAttention(
        16, 2, pattern, global_projections=True, output_projection=False, dtype=torch.float64
    )
    made.load_state_dict(layer.state_dict())
    return made


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many global rows each call computed without projecting every key and value."""
    calls = []

    def count(x, rows, *given, **options):
        calls.append(rows.index.shape[1])
        return global_rows(x, rows, *given, **options)

    monkeypatch.setattr("lit_modules.nn.encoder.attention.global_rows", count)
    return calls


GIVEN = ["", "marks", "marks padding", "marks segments", "marks padding segments", "padding"]


@pytest.mark.parametrize("given", GIVEN)
def test_equals_projecting_every_key_and_value(given, computed):
    layer, masks = attention(), masks_of(given)
    reference = projected(layer, segments="segments" in given)
    x = torch.randn(3, LENGTH, 16, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, LENGTH, 16, dtype=torch.float64)
    outs, grads = [], []
    for module in (layer, reference):
        outs.append(module(x, *masks[:3]))
        inputs = [x, *module.parameters()]
        grads.append(torch.autograd.grad((outs[-1] * upstream).sum(), inputs))
    most = 0 if "marks" not in given else 3
    assert computed == [most]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-11)


def test_without_marks_every_parameter_has_a_gradient_of_zero():
    layer = attention()
    x = torch.randn(3, LENGTH, 16, dtype=torch.float64)
    layer(x, *masks_of("padding")[:3]).sum().backward()
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
    out = layer(x, key_mask, marks)
    assert not out[1].any()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [x, *layer.parameters()])


def test_many_rows_are_projected(computed):
    layer = attention()
    marks = torch.zeros(1, LENGTH, dtype=torch.bool)
    marks[0, : layer.head_dim // 2 + 1] = True
    x = torch.zeros(1, LENGTH, 16, dtype=torch.float64)
    layer(x, global_mask=marks)
    assert computed == []
    marks[0, 0] = False
    layer(x, global_mask=marks)
    assert computed == [layer.head_dim // 2]


def test_dropout_takes_its_share():
    layer = attention(dropout=0.5).train()
    marks = torch.zeros(1, LENGTH, dtype=torch.bool)
    marks[0, 0] = True
    x = torch.randn(1, LENGTH, 16, dtype=torch.float64)
    with torch.no_grad():
        rows = torch.stack([layer(x, None, marks)[0, 0] for _ in range(200)])
        expected = layer.eval()(x, None, marks)[0, 0]
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
    expected = layer(x, *masks[:3])
    got = layer.to(dtype)(x.to(dtype), *masks[:3])
    assert got.dtype == dtype
    error = (got.double() - expected).norm() / expected.norm()
    assert error < 4 * torch.finfo(dtype).eps
