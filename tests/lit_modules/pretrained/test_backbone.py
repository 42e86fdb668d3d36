"""The encoder under a task: what settings make of fresh and of pretrained weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.pretrained.backbone import EncoderSettings, build_encoder, reads_global_mask
from lit_modules.weights import save_encoder

SMALL: dict[str, Any] = dict(layers=2, heads=2, width=8, feedforward_width=12)


def pretrained(folder: Path, **fields: Any) -> Encoder:
    """Saves a small encoder of 16 tokens and 30 words, and returns it."""
    given = {**SMALL, "vocabulary_size": 30, "positions": 18, "pad_id": 1, **fields}
    encoder = Encoder(EncoderConfig(**given)).eval()
    save_encoder(encoder, folder)
    return encoder


def build(vocabulary_size: int = 30, pad_id: int = 1, **fields: Any) -> Encoder:
    settings = EncoderSettings(**fields)
    return build_encoder(settings, vocabulary_size=vocabulary_size, pad_id=pad_id).eval()


def ids(length: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(2, 30, (rows, length))


def test_a_fresh_encoder_has_the_sizes_that_are_given() -> None:
    encoder = build(40, 3, **SMALL, window=4, max_length=50, dropout=0.0)
    config = encoder.config
    assert (config.vocabulary_size, config.pad_id, config.max_length) == (40, 3, 50)
    assert (config.layers, config.width, config.dropout) == (2, 8, 0.0)
    assert config.pattern == sp.get("longformer", window=4)
    assert config.global_projections
    assert config.model_type == "longformer"
    assert build(**SMALL).config.pattern == sp.Full()
    assert build(**SMALL, model_type="bert", max_length=50).config.positions == 50


def test_pretrained_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    source = pretrained(tmp_path)
    encoder = build(path=str(tmp_path))
    text = ids(16)
    assert torch.equal(encoder(text).hidden, source(text).hidden)
    assert encoder.config.spec == sp.Full()
    assert not encoder.config.global_projections
    assert not reads_global_mask(encoder)
    assert "left over  nothing" in str(encoder.report)
    # So that the tokenizer is found when it is saved again.
    assert encoder.report.folder == tmp_path


def test_a_short_table_is_lengthened_by_copies(tmp_path: Path) -> None:
    source = pretrained(tmp_path)
    encoder = build(path=str(tmp_path), max_length=40, window=40)
    rows = encoder.embeddings.position_embeddings.weight
    old = source.embeddings.position_embeddings.weight
    assert torch.equal(rows, torch.cat((old, old[2:], old[2:10])))
    text = ids(16)
    marks = torch.zeros_like(text, dtype=torch.bool)
    marks[:, 0] = True
    got = encoder(text, global_mask=marks).hidden
    torch.testing.assert_close(got, source(text).hidden, rtol=0, atol=1e-6)
    assert "16 made 40: 2 copies and 8 more" in str(encoder.report)
    assert reads_global_mask(encoder)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_lengthening_full_attention_makes_a_longformer(tmp_path: Path, model_type: str) -> None:
    pretrained(tmp_path, model_type=model_type)
    encoder = build(path=str(tmp_path), max_length=100)
    assert encoder.config.max_length == 100
    assert encoder.config.spec == sp.get("longformer", window=512)
    assert encoder.config.model_type == "longformer"
    full = build(path=str(tmp_path), max_length=100, pattern="full")
    assert full.config.max_length == 100
    assert full.config.spec == sp.Full()
    assert full.config.model_type == model_type
    assert full(ids(100)).hidden.isfinite().all()


def test_random_positions_replace_the_copies_alone(tmp_path: Path) -> None:
    source = pretrained(tmp_path)
    encoder = build(path=str(tmp_path), max_length=1024, positions="random")
    rows = encoder.embeddings.position_embeddings.weight
    old = source.embeddings.position_embeddings.weight
    assert torch.equal(rows[:2], old[:2])
    assert not (rows[2:18] == old[2:]).any()
    # The standard error of the standard deviation of n normal numbers is about 1 / sqrt(2 n).
    fresh = rows.detach()[18:]
    assert fresh.std() == pytest.approx(0.02, rel=4 * (2 * fresh.numel()) ** -0.5)


def test_a_longer_table_stays(tmp_path: Path) -> None:
    pretrained(tmp_path)
    assert build(path=str(tmp_path), max_length=5).config.max_length == 16


LONGFORMER = {"pattern": sp.get("longformer", window=4), "global_projections": True}


def test_global_projections_are_dropped_on_request_and_said_so(tmp_path: Path) -> None:
    pretrained(tmp_path, **LONGFORMER)
    kept, dropped = (build(path=str(tmp_path), global_projections=g) for g in (None, False))
    assert kept.config.global_projections
    assert "dropped" not in str(kept.report)
    assert not any("_global" in name for name in dropped.state_dict())
    assert "projections dropped" in str(dropped.report)
    assert dropped.config.spec == kept.config.spec
    text = ids(16)
    # Without global tokens they are not used.
    assert torch.equal(kept(text).hidden, dropped(text).hidden)
    # Full attention has no use for them.
    full = build(path=str(tmp_path), pattern="full")
    assert not full.config.global_projections
    assert "projections dropped" in str(full.report)


def test_new_words_have_fresh_rows(tmp_path: Path) -> None:
    source = pretrained(tmp_path)
    encoder = build(vocabulary_size=33, path=str(tmp_path))
    rows = encoder.embeddings.word_embeddings.weight
    assert torch.equal(rows[:30], source.embeddings.word_embeddings.weight)
    assert rows.shape == (33, 8)
    assert (rows[30:].std(1) > 0).all()
    assert "3 fresh rows" in str(encoder.report)
    assert encoder(torch.tensor([[32, 31, 30]])).hidden.isfinite().all()


def test_only_positions_train(tmp_path: Path) -> None:
    pretrained(tmp_path)
    encoder = build(path=str(tmp_path), train_only="positions")
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert trained == ["embeddings.position_embeddings.weight"]
    encoder(ids(16)).hidden.sum().backward()


def test_settings_are_plain_data_and_come_back(tmp_path: Path) -> None:
    settings = EncoderSettings(**SMALL, pattern=LONGFORMER["pattern"], max_length=9, kernel="dense")
    plain = settings.plain()
    torch.save(plain, tmp_path / "settings.pt")
    assert torch.load(tmp_path / "settings.pt", weights_only=True) == plain
    assert EncoderSettings.of(plain) == settings
    assert EncoderSettings.of(settings) is settings
    assert EncoderSettings.of(None) == EncoderSettings()
    assert "path" not in plain


def test_what_was_built_is_built_again_without_the_path(tmp_path: Path) -> None:
    pretrained(tmp_path / "weights", model_type="bert")
    settings = EncoderSettings(path=str(tmp_path / "weights"), max_length=40, dropout=0.2)
    first = build_encoder(settings, vocabulary_size=31, pad_id=1).eval()
    torch.save(settings.built(first).plain(), tmp_path / "settings.pt")
    gone = EncoderSettings.of(torch.load(tmp_path / "settings.pt", weights_only=True))
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    assert settings.absent
    assert not gone.absent
    second = build_encoder(gone, vocabulary_size=31, pad_id=1).eval()
    assert second.config == first.config
    second.load_state_dict(first.state_dict())
    text = ids(40)
    assert torch.equal(second(text).hidden, first(text).hidden)


def test_the_command_line_shows_every_field() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(_Model, "model")
    words = ["--model.encoder.path=x", "--model.encoder.window=[2,4]"]
    read = parser.parse_args(
        [*words, '--model.encoder.pattern={"window": {"left": 3, "right": 3}}']
    )
    assert read.model.encoder.path == "x"
    assert read.model.encoder.window == [2, 4]
    read = parser.parse_args(words)
    settings = parser.instantiate(read).model.encoder
    assert settings == EncoderSettings(path="x", window=[2, 4])


class _Model:
    def __init__(self, encoder: EncoderSettings) -> None:
        self.encoder = encoder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "full", "window": 4}, "either pattern or window, got both"),
        ({"path": "x", "width": 8}, r"encoder width is decided by the weights at path \(x\), got"),
        ({"positions": "learned"}, "positions must be 'copied' or 'random', got 'learned'"),
        ({"train_only": "head"}, "train_only must be 'positions', got 'head'"),
        ({"max_length": 0}, "max_length must be >= 1, got 0"),
        ({"pattern": "longfrmer"}, "Did you mean 'longformer'"),
        ({**SMALL, "pattern": "full", "global_projections": True}, "pattern with global rows"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no field 'layer'. Did you mean 'layers'\?"):
        EncoderSettings.of({"layer": 3})


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has 29 tokens, but the vocabulary of .* has 30"):
        build(29, path=str(tmp_path))
    with pytest.raises(ValueError, match="padding has id 0 in the data set and 1 in"):
        build(pad_id=0, path=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        build(path=str(tmp_path / "none"))


@pytest.mark.parametrize(("width", "expected"), [(768, 0.02), (192, 0.04), (48, 0.08)])
def test_narrow_encoders_start_with_larger_weights(width, expected):
    settings = EncoderSettings(layers=1, heads=4, width=width)
    encoder = build_encoder(settings, vocabulary_size=2000, pad_id=1)
    assert encoder.config.init_std == pytest.approx(expected)
    spread = encoder.embeddings.word_embeddings.weight.std().item()
    assert spread == pytest.approx(expected, rel=0.03)
    given = EncoderSettings(layers=1, heads=4, width=width, init_std=0.3)
    assert build_encoder(given, vocabulary_size=9, pad_id=1).config.init_std == 0.3
    with pytest.raises(ValueError, match="init_std must be > 0, got 0"):
        build_encoder(
            EncoderSettings(layers=1, heads=4, width=width, init_std=0.0),
            vocabulary_size=9,
            pad_id=1,
        )
