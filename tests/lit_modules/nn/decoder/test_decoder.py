"""The decoder: first loss, causality, gradients, checkpointing, compilation, windows."""

import math
import shutil

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparse_patterns as sp
from lit_modules.nn.decoder.decoder import Decoder

SIZES = dict(layers=2, heads=2, width=16)
WINDOWS = sp.PerHead(sp.Window.before(sp.linear(3, 6)), sp.Window.before(2, 2))


def make(pattern=WINDOWS, vocabulary_size=11, **fields) -> Decoder:
    return Decoder(vocabulary_size, pattern=pattern, **{**SIZES, **fields})


def loss_of(net: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(net(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("labels", ["random", "the token itself"])
def test_first_loss_is_the_logarithm_of_the_vocabulary(width, labels):
    net = make("longformer-causal", 256, width=width, heads=4)
    ids = torch.randint(256, (4, 513))
    logits = net(ids[:, :-1]).logits.flatten(0, 1)
    wanted = ids[:, 1:] if labels == "random" else ids[:, :-1]
    loss = cross_entropy(logits, wanted.flatten()).detach()
    assert abs(float(loss) - math.log(256)) < 0.03


# `longformer` marks its global tokens in each example, which a decoder refuses.
@pytest.mark.parametrize("name", sorted({*sp.names()} - {"longformer"}))
def test_no_preset_lets_a_token_see_later_ones(name):
    net = make(name).double().eval()
    ids = torch.randint(11, (1, 40))
    other = ids.clone()
    other[:, 25:] = (other[:, 25:] + 1) % 11
    before, after = net(ids).logits, net(other).logits
    torch.testing.assert_close(before[:, :25], after[:, :25], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-6)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_every_parameter_gets_a_gradient(positions):
    net = make(positions=positions, max_length=20 if positions == "learned" else None)
    loss_of(net, torch.randint(11, (2, 21))).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_receptive_field_grows_with_the_layers():
    net = make(sp.Window.before(4)).double()
    ids = torch.randint(11, (1, 30))
    x = net.embedding(ids).detach().requires_grad_()
    net.embedding.forward = lambda _: x
    net(ids).logits[0, 20].sum().backward()
    seen = x.grad.abs().sum(-1)[0] > 0
    assert seen.nonzero()[:, 0].tolist() == list(range(12, 21))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(dropout):
    ids = torch.randint(11, (2, 33))
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        net = make(dropout=dropout, attention_dropout=dropout, checkpointing=checkpointing)
        loss_of(net, ids).backward()
        grads.append([p.grad for p in net.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        assert torch.equal(plain, checkpointed)


def test_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for checkpointing in (False, True):
        net = make(checkpointing=checkpointing)
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss_of(net, torch.randint(11, (1, 65)))
        kept.append(total)
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.slow
def test_compiled_without_a_graph_break(checkpointing):
    ids = torch.randint(11, (2, 33))
    net = make(checkpointing=checkpointing)
    expected = loss_of(net, ids)
    expected.backward()
    grads = [p.grad.clone() for p in net.parameters()]
    keys = list(net.state_dict())
    net.zero_grad()
    net.compile(fullgraph=True, backend="aot_eager")
    loss = loss_of(net, ids)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-6)
    assert list(net.state_dict()) == keys


@pytest.mark.slow
@pytest.mark.long
def test_compiled_network_follows_the_windows():
    ids = torch.randint(11, (1, 20))
    net = make(sp.Window.before(2)).eval()
    net.compile(fullgraph=True, backend="aot_eager")
    narrow = net(ids).logits
    net.set_window_scale(4)
    wide = net(ids).logits
    plain = make(sp.Window.before(8)).eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(wide, plain(ids).logits, rtol=0, atol=1e-6)
    assert not torch.allclose(wide, narrow, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
# Inductor's own use of what torch has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.long
def test_compiled_by_inductor():
    ids = torch.randint(11, (2, 33))
    net = make()
    expected = loss_of(net, ids)
    net.compile()
    loss = loss_of(net, ids)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


def test_window_scale_counts_from_the_pattern_given_at_first():
    net = make(sp.Window.before(10, 2))
    net.set_window_scale(4)
    net.set_window_scale(0.5)
    assert net.pattern == sp.Window.before(5, 2)
    assert {block.attention.pattern for block in net.blocks} == {net.pattern}


def test_half_precision_stays_close():
    net = make("longformer-causal", width=32).eval()
    ids = torch.randint(11, (1, 64))
    expected = net(ids).logits
    half = net.bfloat16()(ids).logits
    assert half.dtype == torch.bfloat16
    error = (half.float() - expected).norm() / expected.norm()
    assert error < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 15}, r"width must be a multiple of heads \(2\), got 15"),
        ({"layers": 0}, "layers must be an int >= 1, got 0"),
        ({"width": 6}, "needs an even head size .* got 3"),
        ({"dropout": 1.0}, "dropout must be in 0..1 .* got 1.0"),
        ({"positions": "learned"}, "needs max_length >= 1, got None"),
        ({"positions": "sinus"}, "must be one of rotary, .*t5, learned, got 'sinus'"),
        ({"positions": "transformer-xl", "width": 5, "heads": 1}, "needs an even width, got 5"),
        ({"positions": "transformer-xl", "max_length": 5}, "transformer-xl has no limit, got 5"),
        ({"norm": "middle"}, "norm must be 'pre' or 'post', got 'middle'"),
        ({"activation": "sine"}, "activation must be one of gelu, .* got 'sine'"),
        ({"feedforward_dropout": -0.5}, "feedforward_dropout must be in 0..1 .* got -0.5"),
        ({"max_length": 5}, "max_length is for positions='learned'"),
        ({"pattern": "longfromer"}, "longformer"),
        ({"pattern": "longformer"}, "BatchGlobal.* given no marks; .* such as .longformer-causal"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)
