"""Saving: `transformers` loads the folder and computes the same; so does `load_encoder`."""

import json
import warnings

import pytest
import torch

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.weights import load_encoder, make_long, save_encoder

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "class_name", ["BertModel", "RobertaModel", "LongformerModel", "LongformerForQuestionAnswering"]
)
def test_round_trip(tmp_path, theirs, class_name):
    model = theirs(class_name)
    model.save_pretrained(tmp_path / "theirs")
    encoder = load_encoder(tmp_path / "theirs")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.1)
    save_encoder(encoder, tmp_path / "ours")
    family = class_name.partition("For")[0].removesuffix("Model")
    loader = getattr(transformers, f"{family}Model")
    loaded, info = loader.from_pretrained(
        tmp_path / "ours",
        output_loading_info=True,
        add_pooling_layer=encoder.pooler is not None,
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(2, 40, (2, 21))
    marks = None
    given = {}
    if family == "Longformer":
        marks = torch.zeros_like(ids, dtype=torch.bool)
        marks[:, :2] = True
        given = {"global_attention_mask": marks.long()}
    expected = loaded.eval()(ids, **given)
    got = encoder(ids, global_mask=marks)
    torch.testing.assert_close(got.hidden, expected.last_hidden_state, rtol=0, atol=2e-5)
    again = load_encoder(tmp_path / "ours")
    assert torch.equal(again(ids, global_mask=marks).hidden, got.hidden)
    assert again.config == encoder.config


def test_a_task_of_transformers_takes_the_folder(tmp_path, theirs):
    theirs("RobertaForMaskedLM").save_pretrained(tmp_path / "theirs")
    long = make_long(load_encoder(tmp_path / "theirs"), 200, 16)
    save_encoder(long, tmp_path / "long")
    model, info = transformers.LongformerForSequenceClassification.from_pretrained(
        tmp_path / "long", output_loading_info=True
    )
    assert all(key.startswith("classifier.") for key in info["missing_keys"])
    ids = torch.randint(2, 40, (1, 150))
    expected = model.eval().longformer(ids).last_hidden_state
    torch.testing.assert_close(long(ids).hidden, expected, rtol=0, atol=2e-5)


def test_a_pattern_that_transformers_has_not(tmp_path):
    config = EncoderConfig(40, layers=2, heads=2, width=8, positions=50, pattern="bigbird")
    encoder = Encoder(config).eval()
    with pytest.warns(UserWarning, match=r"its roberta has no pattern .*load_encoder gives this"):
        save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path)
    ids = torch.randint(2, 40, (2, 40))
    assert again.config == config
    assert torch.equal(again(ids).hidden, encoder(ids).hidden)


@pytest.mark.parametrize(("windows", "fits"), [([4, 12], True), ([8, 12], False)])
def test_windows_that_transformers_cannot_run(tmp_path, windows, fits):
    sizes = dict(layers=2, heads=2, width=8, positions=50, model_type="longformer")
    pattern = sp.get("longformer", window=windows)
    encoder = Encoder(EncoderConfig(40, pattern=pattern, global_projections=True, **sizes))
    ids = torch.randint(2, 40, (1, 30))
    if fits:
        save_encoder(encoder, tmp_path)
        model = transformers.LongformerModel.from_pretrained(tmp_path, add_pooling_layer=False)
        model(ids)
        return
    with pytest.warns(UserWarning, match=r"stops at windows of \[8, 12\].*multiple of each"):
        save_encoder(encoder, tmp_path)
    model = transformers.LongformerModel.from_pretrained(tmp_path, add_pooling_layer=False)
    with pytest.raises(AssertionError, match="multiple of 8"):
        model(ids)


def test_precision_is_kept_in_the_file(tmp_path):
    encoder = Encoder(EncoderConfig(40, layers=1, heads=2, width=8, positions=50)).bfloat16()
    save_encoder(encoder, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model = transformers.RobertaModel.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    weight = load_encoder(tmp_path).embeddings.word_embeddings.weight
    assert torch.equal(weight, encoder.embeddings.word_embeddings.weight.float())


def test_unknown_fields_of_the_config_stay(tmp_path, theirs):
    theirs(mine={"a": 1}).save_pretrained(tmp_path / "theirs")
    save_encoder(load_encoder(tmp_path / "theirs"), tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["mine"] == {"a": 1}


def test_the_tokenizer_comes_along(tmp_path, folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(40)}, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64, pad_id=1, pad_token="w1")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_max_length": 64, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "notes.txt").write_text("mine")
    long = make_long(load_encoder(folder), 300, 16)
    save_encoder(long, tmp_path / "long")
    assert not (tmp_path / "long" / "notes.txt").exists()
    copied = transformers.AutoTokenizer.from_pretrained(tmp_path / "long")
    assert copied.model_max_length == 300
    assert len(copied("w5 " * 500, truncation=True).input_ids) == 300
    plain = Tokenizer.from_file(str(tmp_path / "long" / "tokenizer.json"))
    assert len(plain.encode("w5 " * 10).ids) == 10, "a short text is not padded to the full length"
    assert json.loads((folder / "tokenizer_config.json").read_text()) == settings


@pytest.mark.parametrize("settings", [None, {}, {"model_max_length": 10**30}])
def test_the_longest_text_is_the_new_one_whatever_was_said(tmp_path, folder, settings):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(40)}, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is not None:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_encoder(make_long(load_encoder(folder), 300, 16), tmp_path / "long")
    written = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    assert written == {**(settings or {}), "model_max_length": 300}
    copied = transformers.AutoTokenizer.from_pretrained(tmp_path / "long")
    assert copied.model_max_length == 300


def test_saving_over_the_folder_it_came_from(folder):
    (folder / "vocab.json").write_text("{}")
    encoder = load_encoder(folder)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.add_(1)
    save_encoder(encoder, folder)
    again = load_encoder(folder).embeddings.word_embeddings.weight
    assert torch.equal(again, encoder.embeddings.word_embeddings.weight)


def test_no_warning_where_nothing_differs(tmp_path, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_encoder(load_encoder(folder), tmp_path / "new")
        save_encoder(make_long(load_encoder(folder), 100, [8, 16]), tmp_path / "long")
    dilated = make_long(load_encoder(folder), 100, 8, dilation=[1, 2])
    with pytest.warns(UserWarning, match="its Longformer has no pattern"):
        save_encoder(dilated, tmp_path / "dilated")
    assert load_encoder(tmp_path / "dilated").config.pattern == dilated.config.pattern


def test_a_longformer_without_global_projections_is_named(tmp_path):
    config = EncoderConfig(
        40,
        layers=1,
        heads=2,
        width=8,
        pattern=sp.get("longformer", window=4),
        model_type="longformer",
    )
    with pytest.warns(UserWarning, match="always has global projections"):
        save_encoder(Encoder(config), tmp_path)
    assert not load_encoder(tmp_path).config.global_projections
