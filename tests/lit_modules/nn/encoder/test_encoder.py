"""The encoder by itself: examples apart, checkpointing, documents, maps, what is refused."""

import copy

import pytest
import torch
from torch import Tensor

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import LONGEST_MAP, Encoder, EncoderConfig

SIZES = dict(vocabulary_size=40, layers=3, heads=2, width=16, feedforward_width=24, positions=102)
LONG = dict(pattern=sp.get("longformer", window=[4, 8, 20]), global_projections=True)


def make(seed: int = 0, **fields) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(
        EncoderConfig(**{**SIZES, "dropout": 0.0, "attention_dropout": 0.0, **fields})
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return encoder


def batch_of(*lengths: int, pad: int = 1) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their key mask."""
    key_mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return torch.randint(2, 40, key_mask.shape).masked_fill(~key_mask, pad), key_mask


@pytest.mark.parametrize("fields", [LONG, {}, {"model_type": "bert", "pad_id": 0}])
def test_a_batch_equals_its_examples_one_by_one(fields):
    encoder = make(**fields).eval()
    lengths = (37, 1, 100, 64, 13)
    ids, key_mask = batch_of(*lengths, pad=encoder.config.pad_id)
    marks = torch.rand(ids.shape) < torch.tensor([0.0, 1.0, 0.1, 0.02, 0.5])[:, None]
    marks = marks if fields is LONG else None
    together = encoder(ids, key_mask, marks)
    for row, length in enumerate(lengths):
        own = marks[row : row + 1, :length] if marks is not None else None
        alone = encoder(ids[row : row + 1, :length], None, own)
        kept = together.hidden[row, :length]
        torch.testing.assert_close(alone.hidden[0], kept, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=0, atol=1e-5)


def test_padding_changes_nothing():
    encoder = make(**LONG).eval()
    ids, key_mask = batch_of(30, 50)
    marks = torch.rand(ids.shape) < 0.1
    wider = torch.nn.functional.pad(ids, (0, 43), value=1)
    other = encoder(
        wider,
        torch.nn.functional.pad(key_mask, (0, 43)),
        torch.nn.functional.pad(marks, (0, 43), value=True),
    )
    hidden = encoder(ids, key_mask, marks).hidden
    torch.testing.assert_close(other.hidden[:, :50], hidden, rtol=0, atol=1e-5)


def test_no_mask_and_a_mask_of_ones_are_the_same():
    encoder = make(**LONG).eval()
    ids, _ = batch_of(50, 50)
    ones, zeros = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    torch.testing.assert_close(
        encoder(ids).hidden, encoder(ids, ones, zeros).hidden, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("length", [0, 1])
def test_the_shortest_texts(length):
    out = make(**LONG)(torch.zeros(2, length, dtype=torch.long))
    assert out.hidden.shape == (2, length, 16)
    assert (out.pooled is None) == (length == 0)


def test_positions_skip_padding_wherever_it_is():
    encoder = make()
    ids = torch.tensor([[5, 1, 6, 7, 1, 1], [1, 1, 5, 6, 7, 8]])
    rows = encoder.embeddings.positions_of(ids)
    assert rows.tolist() == [[2, 1, 3, 4, 1, 1], [1, 1, 2, 3, 4, 5]]
    bert = make(model_type="bert", pad_id=0)
    assert bert.embeddings.positions_of(ids).tolist() == [list(range(6))] * 2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_no_gradient(dropout):
    ids, key_mask = batch_of(60, 31)
    marks = torch.zeros_like(key_mask)
    marks[:, 0] = True
    grads = []
    for checkpointing in (False, True):
        encoder = make(**LONG, dropout=dropout, attention_dropout=dropout).train()
        encoder.checkpointing = checkpointing
        torch.manual_seed(1)
        encoder(ids, key_mask, marks).hidden.square().mean().backward()
        grads.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 60
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=1e-7)


@pytest.mark.parametrize("marks", [False, True])
def test_every_parameter_has_a_gradient_with_and_without_global_tokens(marks):
    encoder = make(**LONG).train()
    ids, key_mask = batch_of(20, 30)
    global_mask = torch.zeros_like(key_mask)
    global_mask[0, :2] = marks
    out = encoder(ids, key_mask, global_mask)
    (out.hidden.square().mean() + out.pooled.mean()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        trained = bool(parameter.grad.any())
        # A bias of the keys shifts all scores of a query alike.
        if "key" not in name or "weight" in name:
            assert trained == (marks or "_global" not in name), name


def test_fresh_global_projections_change_nothing():
    torch.manual_seed(0)
    apart = Encoder(EncoderConfig(**SIZES, **LONG)).eval()
    shared = Encoder(apart.config.replace(global_projections=False)).eval()
    shared.load_state_dict(apart.state_dict(), strict=False)
    ids, key_mask = batch_of(60, 31)
    marks = torch.rand(ids.shape) < 0.2
    expected = shared(ids, key_mask, marks).hidden
    torch.testing.assert_close(apart(ids, key_mask, marks).hidden, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        next(apart.attentions()).query.weight.add_(0.1)
    assert not torch.equal(
        next(apart.attentions()).query.weight, next(apart.attentions()).query_global.weight
    )
    apart.copy_to_global_projections()
    assert torch.equal(
        next(apart.attentions()).query.weight, next(apart.attentions()).query_global.weight
    )
    with pytest.raises(ValueError, match="has no global projections"):
        shared.copy_to_global_projections()


@pytest.mark.parametrize("global_projections", [False, True])
def test_documents_packed_into_one_text_are_apart(global_projections):
    encoder = make(**{**LONG, "global_projections": global_projections}).eval()
    ids, _ = batch_of(60)
    marks = torch.zeros(1, 60, dtype=torch.bool)
    marks[0, [0, 25, 40]] = True
    documents = torch.tensor([0] * 25 + [1] * 15 + [2] * 20)[None]
    packed = encoder(ids, None, marks, documents)
    for start, stop in ((0, 25), (25, 40), (40, 60)):
        part = slice(start, stop)
        alone = encoder(ids[:, part], None, marks[:, part])
        torch.testing.assert_close(alone.hidden, packed.hidden[:, part], rtol=0, atol=1e-5)


@pytest.mark.parametrize("global_projections", [False, True])
def test_attention_maps_are_what_the_attention_computes(global_projections):
    encoder = make(**{**LONG, "global_projections": global_projections}).eval()
    ids, key_mask = batch_of(60, 31)
    marks = torch.rand(ids.shape) < 0.1
    maps = encoder.attention_maps(ids, layers=range(1, 3), key_mask=key_mask, global_mask=marks)
    assert list(maps) == [1, 2]
    states = encoder(ids, key_mask, marks, output_hidden_states=True).hidden_states
    layer = encoder.encoder.layer[1].attention.self
    weights = maps[1]
    assert weights.shape == (2, 2, 60, 60)
    values = layer.value(states[1]).unflatten(2, (2, 8)).transpose(1, 2)
    out = weights @ values
    if global_projections:
        own = layer.value_global(states[1]).unflatten(2, (2, 8)).transpose(1, 2)
        out = torch.where((marks & key_mask)[:, None, :, None], weights @ own, out)
    expected = layer(states[1], key_mask, marks)
    torch.testing.assert_close(out.transpose(1, 2).flatten(2), expected, rtol=0, atol=1e-5)


def test_maps_are_refused_above_a_length():
    encoder = make(positions=LONGEST_MAP + 10)
    with pytest.raises(ValueError, match=f"at most {LONGEST_MAP} tokens, got {LONGEST_MAP + 1}"):
        encoder.attention_maps(torch.zeros(1, LONGEST_MAP + 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"layers must be in 0..2, got range\(2, 4\)"):
        encoder.attention_maps(torch.zeros(1, 9, dtype=torch.long), layers=range(2, 4))


@pytest.mark.parametrize(
    "pattern",
    [
        sp.PerHead(sp.Window(3, 0), sp.Window(0, 3, dilation=2)) | sp.Global((0, -1)),
        "bigbird",
        {"union": [{"window": {"around": 6}}, {"strided": {"stride": 5}}]},
        sp.PerLayer(sp.Window.around(4), sp.Full(), sp.Window.around(8)),
    ],
)
def test_any_pattern(pattern):
    encoder = make(pattern=pattern).eval()
    ids, key_mask = batch_of(60, 31)
    dense = copy.deepcopy(encoder)
    for attention in dense.attentions():
        attention.kernel = "dense"
    expected = dense(ids, key_mask).hidden
    torch.testing.assert_close(encoder(ids, key_mask).hidden, expected, rtol=0, atol=2e-5)


def test_training_is_deterministic_by_seed():
    ids, key_mask = batch_of(60, 31)
    encoder = make(**LONG, dropout=0.3, attention_dropout=0.3).train()
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(encoder(ids, key_mask).hidden)
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_half_precision_stays_close():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(**SIZES, **LONG)).eval()
    ids, key_mask = batch_of(60, 31)
    marks = torch.rand(ids.shape) < 0.1
    expected = encoder(ids, key_mask, marks).hidden
    got = encoder.bfloat16()(ids, key_mask, marks).hidden
    assert got.dtype == torch.bfloat16
    error = (got.float() - expected).norm() / expected.norm()
    assert error < torch.finfo(torch.bfloat16).eps


IDS = torch.zeros(2, 9, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": IDS + 40}, ValueError, r"input_ids must be in 0..39, .* vocabulary, got 40"),
        ({"input_ids": IDS - 1}, ValueError, "the vocabulary, got -1"),
        (
            {"input_ids": torch.zeros(1, 101, dtype=torch.long)},
            ValueError,
            "text of 101 tokens is longer than the position table, which holds 100; .* make_long",
        ),
        (
            {"input_ids": IDS, "global_mask": torch.zeros(2, 8, dtype=torch.bool)},
            ValueError,
            r"global_mask must have the shape .* \(2, 9\), got \(2, 8\)",
        ),
        (
            {"input_ids": IDS, "key_mask": torch.zeros(9, dtype=torch.bool)},
            ValueError,
            r"key_mask must have the shape .* \(2, 9\), got \(9,\)",
        ),
        (
            {"input_ids": IDS, "key_mask": torch.ones(2, 9)},
            TypeError,
            r"key_mask must be a bool tensor \(True = yes\), got torch.float32",
        ),
        ({"input_ids": IDS[0]}, ValueError, r"must have shape \(batch, length\), got \(9,\)"),
        ({"input_ids": IDS.float()}, TypeError, "input_ids must be an int tensor, got torch.float"),
        (
            {"input_ids": IDS, "token_type_ids": IDS + 1},
            ValueError,
            "token_type_ids must be in 0..0, the rows of its table, got 1",
        ),
        ({"input_ids": IDS, "position_ids": IDS + 102}, ValueError, "the position table, got 102"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make(**LONG)(**arguments)


def test_global_tokens_need_a_pattern_that_has_them():
    with pytest.raises(ValueError, match=r"global_mask was given, but the pattern has no BatchGl"):
        make()(IDS, global_mask=IDS.bool())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 15}, r"width must be a multiple of heads \(2\), got 15"),
        ({"layers": 0}, "layers must be an int >= 1, got 0"),
        ({"positions": 2}, "positions must be an int >= 3, got 2"),
        ({"pad_id": 40}, r"pad_id must be below vocabulary_size \(40\), got 40"),
        ({"activation": "gelo"}, "activation must be one of gelu, .* got 'gelo'"),
        ({"dropout": 1.0}, "dropout must be in 0..1 .* got 1.0"),
        ({"model_type": "t5"}, "model_type must be one of bert, .* got 't5'"),
        ({"global_projections": True}, r"need a pattern with global rows, .* got Full\(\)"),
        ({"pattern": sp.get("longformer", window=[4, 4])}, "2"),
        ({"pattern": "longfromer"}, "longformer"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**{**SIZES, **fields})


def test_global_tokens_are_looked_for_once_for_all_layers(monkeypatch):
    def fail(*given):
        raise AssertionError("a layer looked again")

    encoder = make(**LONG).eval()
    ids, key_mask = batch_of(30, 50)
    marks = torch.rand(ids.shape) < 0.1
    expected = encoder(ids, key_mask, marks).hidden
    monkeypatch.setattr("lit_modules.nn.encoder.attention.find", fail)
    assert torch.equal(encoder(ids, key_mask, marks).hidden, expected)
