"""Masked language models give the numbers of `transformers`, and go there and back."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparse_patterns as sp
from lit_modules.nn.encoder.encoder import Encoder, EncoderConfig
from lit_modules.nn.encoder.masked_lm import MaskedLM, MaskedLMHead
from lit_modules.pretrained.backbone import EncoderSettings
from lit_modules.pretrained.masked_lm import build_masked_lm
from lit_modules.weights import (
    WeightsError,
    load_encoder,
    load_masked_lm,
    make_long,
    save_encoder,
    save_masked_lm,
)

LOGITS = 2e-5


@pytest.fixture
def transformers() -> Any:
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    return library


def theirs(transformers: Any, name: str, seed: int) -> Any:
    """A random small model of the class `name`, its weights large enough to matter."""
    rng = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    heads = rng.choice((1, 2, 4))
    fields: dict[str, Any] = dict(
        vocab_size=rng.randrange(20, 60),
        hidden_size=heads * rng.choice((4, 6)),
        num_hidden_layers=rng.choice((1, 2)),
        num_attention_heads=heads,
        intermediate_size=rng.randrange(8, 40),
        max_position_embeddings=64,
        type_vocab_size=rng.choice((1, 2)),
        hidden_act=rng.choice(("gelu", "relu", "gelu_new")),
        layer_norm_eps=rng.choice((1e-5, 1e-12)),
        pad_token_id=0 if name == "Bert" else 1,
    )
    if name == "Longformer":
        fields["attention_window"] = [rng.choice((4, 8))] * fields["num_hidden_layers"]
    config = getattr(transformers, f"{name}Config")(**fields)
    model = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    for key, parameter in model.named_parameters():
        mean = 1.0 if "norm.weight" in key.lower() else 0.0
        nn.init.normal_(parameter, mean=mean, std=0.15)
    return model


def text(model: Any, length: int = 29) -> tuple[Tensor, Tensor]:
    config = model.config
    ids = torch.randint(config.pad_token_id + 1, config.vocab_size, (3, length))
    key_mask = torch.ones_like(ids, dtype=torch.bool)
    key_mask[1, length // 2 :] = False
    return ids.masked_fill(~key_mask, config.pad_token_id), key_mask


def same(model: Any, ours: MaskedLM) -> None:
    ids, key_mask = text(model)
    with torch.no_grad():
        expected = model(ids, attention_mask=key_mask.long()).logits[key_mask]
        got = ours(ids, key_mask)[key_mask]
        some = key_mask & (torch.rand(ids.shape) < 0.3)
        torch.testing.assert_close(
            ours(ids, key_mask, scored=some), ours(ids, key_mask)[some], rtol=0, atol=LOGITS
        )
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(got, expected, rtol=0, atol=LOGITS)


NAMES = ("Roberta", "Bert", "Longformer", "XLMRoberta", "Camembert")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers_and_both_ways_of_saving_agree(
    transformers: Any, tmp_path: Path, name: str, seed: int
) -> None:
    model = theirs(transformers, name, seed)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_masked_lm(tmp_path / "theirs")
    assert ours.encoder.report.left_over == ()
    same(model, ours)
    save_masked_lm(ours, tmp_path / "ours")
    again, info = getattr(transformers, f"{name}ForMaskedLM").from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert again.config.architectures == [f"{name}ForMaskedLM"]
    same(again.eval(), ours)
    same(model, load_masked_lm(tmp_path / "ours"))
    # The encoder alone loads from it, too.
    encoder = load_encoder(tmp_path / "ours")
    ids, key_mask = text(model)
    assert torch.equal(encoder(ids, key_mask).hidden, ours.encoder(ids, key_mask).hidden)


@pytest.mark.parametrize("name", ["Roberta", "Bert"])
def test_state_dicts_with_and_without_the_tied_names_load(transformers: Any, name: str) -> None:
    model = theirs(transformers, name, 7)
    full = dict(model.state_dict())
    short = {key: tensor for key, tensor in full.items() if ".decoder." not in key}
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for key, tensor in short.items()
    }
    bias_below = {key: t for key, t in full.items() if not key.endswith(("lm_head.bias",))}
    bias_below = {k: t for k, t in bias_below.items() if not k.endswith("predictions.bias")}
    prefixed = {f"module.{key}": tensor for key, tensor in full.items()}
    assert any(".decoder." in key for key in full)
    for state in (full, short, old, bias_below, prefixed):
        same(model, load_masked_lm(state, model.config))


def small(**fields: Any) -> Encoder:
    given = dict(vocabulary_size=30, layers=2, heads=2, width=8, feedforward_width=12, positions=18)
    return Encoder(EncoderConfig(**{**given, "pad_id": 1, **fields})).eval()


def drawn(encoder: Encoder) -> MaskedLM:
    model = MaskedLM(encoder, MaskedLMHead(encoder.config)).eval()
    nn.init.normal_(model.head.bias)
    return model


def build(path: Path, **fields: Any) -> MaskedLM:
    words = fields.pop("vocabulary_size", 30)
    settings = EncoderSettings(path=str(path), **fields)
    return build_masked_lm(settings, vocabulary_size=words, pad_id=1)


def test_a_model_for_a_data_set_has_the_head_of_the_weights(tmp_path: Path) -> None:
    model = drawn(small())
    save_masked_lm(model, tmp_path)
    built = build(tmp_path, max_length=40, window=40).eval()
    ids = torch.randint(2, 30, (2, 16))
    torch.testing.assert_close(built(ids), model(ids), rtol=0, atol=1e-6)
    assert "left over  nothing" in str(built.encoder.report)
    assert "head       loaded" in str(built.encoder.report)
    more = build(tmp_path, vocabulary_size=33).eval()
    assert more(ids).shape == (2, 16, 33)
    torch.testing.assert_close(more(ids)[..., :30], model(ids), rtol=0, atol=1e-6)
    assert torch.equal(more.head.bias[30:], torch.zeros(3))


def test_a_fresh_head_is_drawn_and_trained_where_the_weights_have_none(tmp_path: Path) -> None:
    save_encoder(small(), tmp_path / "encoder")
    save_masked_lm(drawn(small()), tmp_path / "whole")
    fresh, loaded = (build(tmp_path / n, train_only="positions") for n in ("encoder", "whole"))
    assert "head       fresh" in str(fresh.encoder.report)
    table = "encoder.embeddings.position_embeddings.weight"
    trained = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert trained == [table]
    trained = [name for name, p in fresh.named_parameters() if p.requires_grad]
    assert trained == [table, *(f"head.{name}" for name, _ in fresh.head.named_parameters())]


def test_the_word_table_is_shared() -> None:
    model = drawn(small())
    assert sum("30" in str(tuple(p.shape)) for p in model.parameters()) == 2
    model(torch.tensor([[5, 6]])).sum().backward()
    # Words that are not in the text get gradients from the output side.
    assert model.encoder.embeddings.word_embeddings.weight.grad[20].abs().sum() > 0


def test_made_long_it_is_saved_as_a_longformer(transformers: Any, tmp_path: Path) -> None:
    model = theirs(transformers, "Roberta", 2)
    model.save_pretrained(tmp_path / "short")
    short = load_masked_lm(tmp_path / "short")
    long = MaskedLM(make_long(short.encoder, 128, 8), short.head).eval()
    save_masked_lm(long, tmp_path / "long")
    other = transformers.LongformerForMaskedLM.from_pretrained(tmp_path / "long").eval()
    same(other, long)


def test_a_pattern_that_transformers_lacks_comes_back_here(tmp_path: Path) -> None:
    model = drawn(small(pattern=sp.Window(3, 3)))
    with pytest.warns(UserWarning, match="compute something else"):
        save_masked_lm(model, tmp_path)
    ids = torch.randint(2, 30, (2, 16))
    assert torch.equal(load_masked_lm(tmp_path)(ids), model(ids))


def test_an_activation_of_another_architecture_is_refused(tmp_path: Path) -> None:
    encoder = small()
    model = MaskedLM(encoder, MaskedLMHead(encoder.config, "relu"))
    with pytest.raises(ValueError, match="has activation 'relu', but a roberta of transformers"):
        save_masked_lm(model, tmp_path)


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    encoder = small()
    with pytest.raises(WeightsError, match="has no head of a masked language model"):
        load_masked_lm(encoder.state_dict(), encoder.config)
    save_masked_lm(drawn(encoder), tmp_path)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model.safetensors")

    def load(**changes: Tensor | None) -> None:
        new = {key: t for key, t in {**state, **changes}.items() if t is not None}
        load_masked_lm(new, encoder.config)

    with pytest.raises(WeightsError, match=r"lacks lm_head\.layer_norm\.bias"):
        load(**{"lm_head.layer_norm.bias": None})
    with pytest.raises(WeightsError, match=r"lm_head\.bias of the state dict is \(31,\), .* \(30,"):
        load(**{"lm_head.bias": torch.zeros(31)})
    with pytest.raises(WeightsError, match="a head with a table of its own"):
        load(**{"lm_head.decoder.weight": torch.zeros(30, 8)})
