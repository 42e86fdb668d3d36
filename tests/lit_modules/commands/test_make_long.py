"""`sparse-patterns make-long`: from a folder to a folder that `transformers` loads."""

import re

import pytest
import torch

import sparse_patterns as sp
from lit_modules.cli import main
from lit_modules.weights import load_encoder

transformers = pytest.importorskip("transformers")


@pytest.fixture
def roberta(tmp_path):
    config = transformers.RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=66,
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path / "short")
    return tmp_path / "short"


def test_make_long(tmp_path, roberta, capsys):
    words = ["make-long", str(roberta), str(tmp_path / "long"), "--max-length", "200"]
    assert main([*words, "--window", "16,32"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == [
        "loaded",
        "matched",
        "missing",
        "left",
        "positions",
        "pattern",
        "global",
        "check",
        "saved",
    ]
    assert shown[4] == "positions  64 made 200: 3 copies and 8 more, after 2 special rows"
    assert shown[7].endswith("from the short one on 9 tokens")
    model = transformers.LongformerModel.from_pretrained(tmp_path / "long").eval()
    assert model.config.attention_window == [16, 32]
    ids = torch.randint(2, 40, (1, 200))
    got = load_encoder(tmp_path / "long")(ids).hidden
    torch.testing.assert_close(got, model(ids).last_hidden_state, rtol=0, atol=2e-5)


def test_dilation_is_kept_and_the_user_told(tmp_path, roberta, capsys):
    words = ["make-long", str(roberta), str(tmp_path / "long"), "--dilation", "1,2"]
    with pytest.warns(UserWarning, match="its Longformer has no pattern"):
        assert main([*words, "--window", "8", "--max-length", "80"]) == 0
    capsys.readouterr()
    pattern = load_encoder(tmp_path / "long").config.pattern
    assert pattern == sp.get("longformer", window=8, dilation=[1, 2])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["IN", "IN"], 2, "exists and is not an empty folder"),
        (["nowhere", "OUT"], 2, "nowhere: no such file or folder"),
        (["IN", "OUT", "--max-length", "20"], 1, "max_length must be at least that .* 64, got 20"),
        (["IN", "OUT", "--window", "a"], 2, "must be one number or one per layer, .* got 'a'"),
        (["IN", "OUT", "--window", "7"], 1, "7"),
        (["IN"], 2, "output"),
    ],
)
def test_mistakes_take_one_line(tmp_path, roberta, capsys, words, status, message):
    places = {"IN": str(roberta), "OUT": str(tmp_path / "out")}
    assert main(["make-long", *(places.get(word, word) for word in words)]) == status
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("sparse-patterns: error: ")
    assert re.search(message, shown)
    assert not (tmp_path / "out").exists()
