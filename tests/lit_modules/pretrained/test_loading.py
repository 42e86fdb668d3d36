"""Loading: all of the encoder comes from the file, by the numbers of `transformers`, or nothing."""

import json
import re

import pytest
import torch

from lit_modules.nn.encoder.encoder import EncoderConfig
from lit_modules.pretrained.files import WeightsError
from lit_modules.weights import load_encoder

WORDS = "embeddings.word_embeddings.weight"


def hidden(model, ids, key_mask):
    return model(ids, attention_mask=key_mask.long()).last_hidden_state


def check_same(model, encoder):
    """The hidden states of real tokens are those of a backbone of `transformers`."""
    ids = torch.randint(2, 40, (2, 19))
    key_mask = torch.ones_like(ids, dtype=torch.bool)
    key_mask[1, 11:] = False
    ids = ids.masked_fill(~key_mask, encoder.config.pad_id)
    backbone = getattr(model, model.base_model_prefix, model)
    got = encoder(ids, key_mask).hidden[key_mask]
    expected = hidden(backbone, ids, key_mask)[key_mask]
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("class_name", "prefix", "pooler", "left_over"),
    [
        ("RobertaModel", "", True, 0),
        ("BertModel", "", True, 0),
        ("LongformerModel", "", True, 0),
        ("RobertaForMaskedLM", "roberta.", False, 5),
        ("BertForMaskedLM", "bert.", False, 5),
        ("LongformerForQuestionAnswering", "longformer.", False, 2),
        ("LongformerForSequenceClassification", "longformer.", False, 4),
        ("BertForSequenceClassification", "bert.", True, 2),
    ],
)
def test_a_folder_of_transformers(tmp_path, theirs, class_name, prefix, pooler, left_over):
    model = theirs(class_name)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert not encoder.training
    check_same(model, encoder)
    report = encoder.report
    assert report.prefix == prefix
    assert set(report.matched) == set(encoder.state_dict())
    assert report.missing == (() if pooler else ("pooler",))
    assert (encoder.pooler is not None) == pooler
    assert len(report.left_over) == left_over
    assert report.folder == tmp_path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".ckpt"])
def test_a_file_with_a_config(tmp_path, theirs, suffix):
    model = theirs()
    model.save_pretrained(tmp_path)
    file = tmp_path / f"model{suffix}"
    if suffix != ".safetensors":
        torch.save({"state_dict": model.state_dict()}, file)
    beside = load_encoder(file)
    check_same(model, beside)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    for given in (config, tmp_path, content, model.config, beside.config):
        check_same(model, load_encoder(file, given))
    config.unlink()
    with pytest.raises(WeightsError, match=r"no config.json beside it; give config=, since"):
        load_encoder(file)


@pytest.mark.parametrize("prefix", ["", "model.", "module.longformer."])
def test_a_state_dict(theirs, prefix):
    model = theirs("LongformerModel")
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(66)[None]
    encoder = load_encoder(state, model.config)
    check_same(model, encoder)
    assert encoder.report.buffers == (f"{prefix}embeddings.position_ids",)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.zero_()
    assert model.embeddings.word_embeddings.weight.any(), "the encoder has copies"


def test_old_spellings(theirs):
    model = theirs("BertModel")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {
        re.sub(r"LayerNorm\.\w+", lambda match: old[match[0]], name): tensor
        for name, tensor in model.state_dict().items()
    }
    encoder = load_encoder(state, model.config)
    check_same(model, encoder)
    assert encoder.report.renamed == 10
    assert "renamed    10 old spellings" in str(encoder.report)


def test_half_precision_is_widened(theirs):
    model = theirs().half()
    encoder = load_encoder(model.state_dict(), model.config)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    check_same(model.float(), encoder)


def test_the_report_is_for_people(folder):
    assert str(load_encoder(folder).report) == (
        f"loaded     {folder}\n"
        "matched    39 tensors, all of the encoder\n"
        "missing    nothing\n"
        "left over  nothing"
    )


KEY = "encoder.layer.1.attention.self.key.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(KEY), rf"without weights: {KEY}$"),
        (lambda s: s.update(encoder_x=0, **{f"encoder.{n}": s[KEY] for n in "abcd"}), "1 more"),
        (lambda s: s.update({KEY: s[KEY][:8]}), rf"{KEY} is \(8, 16\), .* needs \(16, 16\)"),
        (lambda s: s[KEY].fill_(torch.nan), rf"{KEY} of the state dict has values .* not finite"),
        (lambda s: s.update({KEY: s[KEY].long()}), rf"{KEY} of .* float type, got torch.int64"),
        (
            lambda s: [s.pop(k) for k in list(s) if "layer.1" in k],
            "the weights have 1 layers, the configuration 2",
        ),
        (
            lambda s: s.update({KEY.replace("key", "key_global"): s[KEY]}),
            "the weights are a Longformer's, the configuration is not",
        ),
    ],
)
def test_weights_that_do_not_fit(theirs, change, message):
    model = theirs()
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_encoder(state, model.config)


def test_a_configuration_that_does_not_fit(theirs):
    state = theirs().state_dict()
    with pytest.raises(WeightsError, match=r"word_embeddings.weight is \(40, 16\), .* \(41, 16\)"):
        load_encoder(state, theirs(vocab_size=41).config)
    with pytest.raises(WeightsError, match="without global projections and use make_long"):
        load_encoder(state, theirs("LongformerModel").config)
    with pytest.raises(ValueError, match="model_type 'gpt2'; this encoder reads bert, roberta"):
        load_encoder(state, {"model_type": "gpt2"})
    with pytest.raises(TypeError, match=r"config must be an EncoderConfig, a mapping .* got int"):
        load_encoder(state, 3)


def test_weights_of_something_else(theirs):
    with pytest.raises(WeightsError, match=r"nothing in the state dict matches: no name ends with"):
        load_encoder({"transformer.wte.weight": torch.zeros(3, 3)}, theirs().config)


def test_with_another_pattern(theirs):
    model = theirs()
    config = EncoderConfig.from_huggingface(model.config.to_dict()).replace(pattern="bigbird")
    assert load_encoder(model.state_dict(), config).config.pattern == config.pattern
