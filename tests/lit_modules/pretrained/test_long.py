"""Made long: positions copied in full, projections independent, the same on short texts."""

import copy

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.weights import check_long, load_encoder, make_long


def small(positions: int = 22, **fields) -> Encoder:
    sizes = dict(layers=3, heads=2, width=16, feedforward_width=24, dropout=0.0)
    encoder = Encoder(EncoderConfig(40, positions=positions, **sizes, **fields))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return encoder.eval()


BERT = dict(model_type="bert", pad_id=0)
ROBERTA = dict(model_type="roberta", pad_id=1)


@pytest.mark.parametrize("kind", [BERT, ROBERTA, {"model_type": "roberta", "pad_id": 3}])
@pytest.mark.parametrize("source", [5, 20, 37])
@pytest.mark.parametrize("length", [37, 40, 100])
def test_every_row_of_the_position_table(kind, source, length):
    special = 0 if kind is BERT else kind["pad_id"] + 1
    short = small(special + source, **kind)
    long = make_long(short, length, 8)
    before = short.embeddings.position_embeddings.weight
    after = long.embeddings.position_embeddings.weight
    first = kind["pad_id"] + 1
    assert long.config.max_length == length
    assert after.shape[0] == first + length
    for row in range(length):
        assert torch.equal(after[first + row], before[special + row % source])
    for row in range(first):
        expected = before[row] if special else torch.zeros_like(after[row])
        assert torch.equal(after[row], expected)
    assert (long.report.copies, long.report.remainder) == divmod(length, source)


@pytest.mark.parametrize("kind", [BERT, ROBERTA])
@pytest.mark.parametrize("window", [16, [8, 16, 12]])
def test_it_equals_the_short_one_on_texts_within_the_window(kind, window):
    short = small(42, **kind)
    long = make_long(short, 90, window)
    reach = (window if isinstance(window, int) else min(window)) // 2 + 1
    check = check_long(short, long)
    assert check.length == reach
    assert check.difference < 2e-5
    ids = torch.randint(4, 40, (2, reach + 1))
    same = short(ids[:, :reach]).hidden - long(ids[:, :reach]).hidden
    assert same.abs().max() < 2e-5
    assert (short(ids).hidden - long(ids).hidden).abs().max() > 1e-3, "the window is felt"


def test_a_check_that_fails_says_by_how_much():
    short = small(42)
    long = make_long(short, 90, 16)
    with torch.no_grad():
        long.embeddings.position_embeddings.weight[4].normal_()
    with pytest.raises(
        ValueError, match=r"differs from the short one by \d.* on 9 tokens; allowed"
    ):
        check_long(short, long)
    assert not short.training
    assert not long.training


def test_projections_of_global_tokens_are_independent_copies():
    short = small()
    before = copy.deepcopy(short.state_dict())
    long = make_long(short, 50, 8)
    storages = [parameter.data_ptr() for parameter in long.parameters()]
    assert len(set(storages)) == len(storages)
    for attention in long.attentions():
        for name in ("query", "key", "value"):
            own = attention.get_submodule(f"{name}_global").weight
            assert torch.equal(own, attention.get_submodule(name).weight)
            with torch.no_grad():
                own.zero_()
            assert attention.get_submodule(name).weight.any()
    with torch.no_grad():
        for parameter in long.parameters():
            parameter.zero_()
    for name, tensor in short.state_dict().items():
        assert torch.equal(tensor, before[name]), "the short encoder does not change"


def test_a_longformer_keeps_its_global_projections():
    once = make_long(small(), 50, 8)
    with torch.no_grad():
        for attention in once.attentions():
            attention.query_global.weight.normal_()
    twice = make_long(once, 120, 8)
    assert twice.report.global_projections == "kept"
    for before, after in zip(once.attentions(), twice.attentions(), strict=True):
        assert torch.equal(before.query_global.weight, after.query_global.weight)
    assert check_long(once, twice).difference < 2e-5


def test_windows_by_layer_and_dilation():
    long = make_long(small(), 60, [4, 8, 12], dilation=[1, 2, 3])
    for layer, (side, dilation) in enumerate([(2, 1), (4, 2), (6, 3)]):
        expected = sp.dense_mask(sp.Window(side, side, dilation), 60, heads=1)[0]
        got = sp.dense_mask(long.config.spec, 60, heads=2, layer=layer, layers=3)
        assert torch.equal(got.squeeze(0)[0], expected)


def test_mode_precision_and_checkpointing_stay():
    short = small().double().train()
    short.checkpointing = True
    long = make_long(short, 50, 8)
    assert long.training
    assert long.checkpointing
    assert next(long.parameters()).dtype == torch.float64
    assert not make_long(small(), 50, 8).training


def test_the_report(folder):
    long = make_long(load_encoder(folder), 100, 8)
    assert str(long.report).splitlines()[1:] == [
        "matched    39 tensors, all of the encoder",
        "missing    nothing",
        "left over  nothing",
        "positions  64 made 100: 1 copies and 36 more, after 2 special rows",
        f"pattern    {long.config.pattern!r}",
        "global     projections copied from query, key and value",
    ]


@pytest.mark.parametrize(
    ("length", "window", "message"),
    [
        (19, 8, "max_length must be at least that of the encoder, 20, got 19"),
        (50, 7, "7"),
        (50, [4, 4], "2"),
        (50, -2, "-"),
    ],
)
def test_what_makes_no_sense(length, window, message):
    with pytest.raises(ValueError, match=message):
        make_long(small(), length, window)
