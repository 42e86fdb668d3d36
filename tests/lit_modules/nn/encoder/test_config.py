"""The encoder's record, to and from `config.json`."""

import pytest

import sparse_patterns as sp
from lit_modules.nn.encoder.config import EncoderConfig, attention_windows

SMALL = dict(vocab_size=40, num_hidden_layers=2, num_attention_heads=2, hidden_size=8)


@pytest.mark.parametrize(
    "model_type", ["bert", "roberta", "xlm-roberta", "camembert", "longformer"]
)
def test_there_and_back(model_type):
    given = {**SMALL, "model_type": model_type, "attention_window": [4, 8], "eos_token_id": 7}
    config = EncoderConfig.from_huggingface(given)
    written = config.to_huggingface()
    assert EncoderConfig.from_huggingface(written) == config
    assert written["eos_token_id"] == 7
    assert "sparse_patterns" not in written
    assert config.differences() == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pattern": sp.Window.around(4)}, r"its roberta has no pattern Window\(2, 2\)"),
        (
            {"pattern": sp.get("longformer", window=4, dilation=2), "global_projections": True},
            "its Longformer has no pattern",
        ),
        (
            {"pattern": sp.get("longformer", window=4), "model_type": "longformer"},
            "always has global projections",
        ),
    ],
)
def test_what_transformers_cannot_hold_is_kept_and_told(fields, reason):
    config = EncoderConfig(40, layers=2, heads=2, width=8, **fields)
    assert EncoderConfig.from_huggingface(config.to_huggingface()) == config
    assert reason.replace("\\", "") in "; ".join(config.differences())


def test_windows_by_layer():
    config = EncoderConfig(
        40, layers=3, pattern=sp.get("longformer", window=[2, 4, 6]), global_projections=True
    )
    assert attention_windows(config) == [2, 4, 6]
    assert config.model_type == "longformer"
    assert attention_windows(config.replace(pattern=sp.Window(2, 1) | sp.BatchGlobal())) is None
    assert attention_windows(config.replace(pattern=sp.Window(2, 2) | sp.Global((0,)))) is None


def test_the_authors_windows_count_one_side():
    config = EncoderConfig.from_huggingface(
        {
            **SMALL,
            "model_type": "roberta",
            "attention_mode": "tvm",
            "attention_window": [4, 8],
            "attention_dilation": [1, 2],
            "autoregressive": False,
        }
    )
    assert config.pattern == sp.get("longformer", window=[8, 16], dilation=[1, 2])
    assert config.global_projections
    assert config.model_type == "longformer"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "deberta"}, "config has model_type 'deberta'; this encoder reads bert"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "config has is_decoder=True"),
        ({"hidden_act": "mish"}, "activation must be one of"),
        ({"vocab_size": None}, "config has no vocab_size"),
    ],
)
def test_other_architectures_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig.from_huggingface({**SMALL, "model_type": "bert", **fields})


def test_bert_counts_from_zero():
    bert = EncoderConfig(40, positions=20, model_type="bert", pad_id=0)
    roberta = EncoderConfig(40, positions=20, pad_id=1)
    assert (bert.special_positions, bert.max_length) == (0, 20)
    assert (roberta.special_positions, roberta.max_length) == (2, 18)
